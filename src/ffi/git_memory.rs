//! A bound on the memory of libgit2. A git server decides how large its objects are after they are decompressed or made from
//! deltas, and libgit2 allocates as much as the server declares, so each allocation of libgit2 is made here.
//!
//! A refused allocation ends the operation, mostly with an error of the class [`git2::ErrorClass::NoMemory`]. Small allocations
//! are never refused: at hundreds of places libgit2 uses their result without a check. The caller of libgit2 must end the
//! operation when [`is_exceeded`].

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicI64, Ordering};

use git2::Error;

/// Most bytes of one allocation: a file of the largest size that `mirror` accepts, and what git adds.
pub(crate) const MAX_ALLOCATION: usize = (256 << 20) + (64 << 10);
/// Most bytes of all allocations together: the objects of a transfer, and the base, the delta and the result of one object.
pub(crate) const MAX_MEMORY: i64 = 832 << 20;

/// Allocations of this size and more can be refused. Tested: each of them in a fetch of 160 000 objects and in its tree, and each
/// smaller one, of which every eighth led to a crash.
const REFUSABLE: usize = 64 << 10;

/// The bytes that libgit2 has allocated. Below 0 for a moment if it frees memory from before [`limit`].
static IN_USE: AtomicI64 = AtomicI64::new(0);

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn realloc(memory: *mut c_void, size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
    /// The size of an allocation, at least as large as requested; 0 for null.
    fn malloc_usable_size(memory: *mut c_void) -> usize;
}

/// `git_allocator` of `git2/sys/alloc.h`.
#[repr(C)]
struct Allocator {
    malloc: unsafe extern "C" fn(usize, *const c_char, c_int) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, usize, *const c_char, c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
}

/// Limits the memory of libgit2. No other thread may begin to use libgit2 before this returns.
pub(super) fn limit() -> Result<(), Error> {
    let ours = Allocator { malloc: allocate, realloc: resize, free: release };
    let option = libgit2_sys::GIT_OPT_SET_ALLOCATOR as c_int;
    // SAFETY: libgit2 copies the structure. The functions fulfil its contract, and accept memory of its former allocator, which
    // uses malloc and free of the C library as well.
    let done = unsafe { libgit2_sys::git_libgit2_opts(option, &raw const ours) };
    if done < 0 { Err(Error::last_error(done)) } else { Ok(()) }
}

/// Whether small allocations have taken more than [`MAX_MEMORY`].
pub(crate) fn is_exceeded() -> bool {
    IN_USE.load(Ordering::Relaxed) > MAX_MEMORY
}

/// Whether `size` bytes may be allocated in addition to `in_use`.
fn fits(size: usize, in_use: i64) -> bool {
    size < REFUSABLE || (size <= MAX_ALLOCATION && in_use + size as i64 <= MAX_MEMORY)
}

unsafe extern "C" fn allocate(size: usize, _: *const c_char, _: c_int) -> *mut c_void {
    if !fits(size, IN_USE.load(Ordering::Relaxed)) {
        return std::ptr::null_mut();
    }
    // SAFETY: malloc may be called with any size. Its result, also null, is what malloc_usable_size expects.
    unsafe {
        let memory = malloc(size.max(1));
        IN_USE.fetch_add(malloc_usable_size(memory) as i64, Ordering::Relaxed);
        memory
    }
}

unsafe extern "C" fn resize(old: *mut c_void, size: usize, _: *const c_char, _: c_int) -> *mut c_void {
    // SAFETY: `old` is null or an allocation of malloc that libgit2 owns. It stays valid if realloc returns null, because the
    // size is not 0.
    unsafe {
        let before = malloc_usable_size(old);
        if !fits(size, IN_USE.load(Ordering::Relaxed) - before as i64) {
            return std::ptr::null_mut();
        }
        let memory = realloc(old, size.max(1));
        if !memory.is_null() {
            IN_USE.fetch_add(malloc_usable_size(memory) as i64 - before as i64, Ordering::Relaxed);
        }
        memory
    }
}

unsafe extern "C" fn release(memory: *mut c_void) {
    // SAFETY: `memory` is null or an allocation of malloc that libgit2 gives back.
    unsafe {
        IN_USE.fetch_sub(malloc_usable_size(memory) as i64, Ordering::Relaxed);
        free(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_allocations_are_never_refused() {
        for in_use in [0, MAX_MEMORY - 1, MAX_MEMORY, 2 * MAX_MEMORY] {
            assert!(fits(0, in_use) && fits(REFUSABLE - 1, in_use));
        }
    }

    #[test]
    fn large_allocations_are_refused_over_the_limits() {
        assert!(fits(MAX_ALLOCATION, MAX_MEMORY - MAX_ALLOCATION as i64));
        assert!(!fits(MAX_ALLOCATION, MAX_MEMORY - MAX_ALLOCATION as i64 + 1));
        assert!(!fits(MAX_ALLOCATION + 1, 0) && !fits(usize::MAX >> 1, 0));
        assert!(fits(REFUSABLE, MAX_MEMORY - REFUSABLE as i64) && !fits(REFUSABLE, MAX_MEMORY));
    }
}
