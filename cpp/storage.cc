#include "storage.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <libtorrent/hasher.hpp>
#include <set>

namespace silmaril {

namespace {
// Bytes that v1 hashing reads at a time.
constexpr int hash_chunk = 256 * 1024;
// Bytes that one saved hash covers.
constexpr int granule_size = 64 * 1024;
// Blocks that one flush writes: 512 KiB.
constexpr std::size_t most_at_once = 32;
}  // namespace

Storage::Accepted Storage::accept(int piece, Block& block) {
    std::lock_guard const lock(m_mutex);
    if (proof && (proof->proved(piece) || proof->blocks.keeps(piece, block.start / block_size)))
        return Accepted::no;
    auto& state = m_pieces[piece];
    m_accepted[{piece, block.start}] = block.bytes;
    // The blocks of the piece need one flush for each `most_at_once` of them.
    bool const flush = state.accepted.size() % most_at_once == 0;
    state.accepted.push_back(std::move(block));
    if (!flush) return Accepted::yes;
    ++state.running;
    return Accepted::flush;
}

void Storage::end_accepted(int piece, Block const& block) {
    auto const accepted = m_accepted.find({piece, block.start});
    // If the block was accepted again during the write, its entry belongs to the newer write.
    if (accepted != m_accepted.end() && accepted->second == block.bytes) m_accepted.erase(accepted);
}

Storage::Flushed Storage::flush(int piece) {
    auto writes = begin_writes(piece);
    hash_writes(piece, writes);
    write_runs(piece, writes);
    return end_writes(piece, std::move(writes));
}

std::vector<Storage::Write> Storage::begin_writes(int piece) {
    std::vector<Write> writes;
    std::lock_guard const lock(m_mutex);
    auto& state = m_pieces[piece];
    while (!state.accepted.empty() && writes.size() < most_at_once) {
        writes.push_back({std::move(state.accepted.front())});
        state.accepted.pop_front();
    }
    std::stable_sort(writes.begin(), writes.end(),
                     [](Write const& a, Write const& b) { return a.block.start < b.block.start; });
    for (auto& write : writes) {
        int const block = write.block.start / block_size;
        write.block.refused = proof && proof->blocks.is_barred(piece);
        // Proved after this block was accepted.
        bool const late = proof && (proof->proved(piece) || proof->blocks.keeps(piece, block));
        write.needed = !write.block.refused && !late;
        if (!write.needed) continue;
        auto& writing = state.writing[block];
        writing.overlapped = ++writing.running > 1;
    }
    return writes;
}

void Storage::hash_writes(int piece, std::vector<Write>& writes) {
    bool const any = std::any_of(writes.begin(), writes.end(), [](Write const& one) { return one.needed; });
    // An earlier verdict does not apply to the new bytes.
    if (any && proof && proof->keeps(piece)) proof->forget(piece);
    // In a hybrid torrent the v1 piece may extend into a pad file; v2 hashes only the file's own bytes.
    int const whole = layout.v2() ? layout.piece_size2(lt::piece_index_t(piece)) : 0;
    for (auto& [block, needed, digest] : writes) {
        if (!needed) continue;
        int const own = std::min(int(block.bytes->size()), whole - block.start);
        if (own > 0) digest = lt::hasher256(block.bytes->data(), own).final();
        auto const expected =
            proof && !block.given ? proof->blocks.hash(piece, block.start / block_size) : std::nullopt;
        block.wrong = expected && digest != *expected;
    }
}

void Storage::write_runs(int piece, std::vector<Write>& writes) {
    auto const is_written = [](Write const& one) { return one.needed && !one.block.wrong; };
    for (auto first = writes.begin(); first != writes.end();) {
        if (!is_written(*first)) {
            ++first;
            continue;
        }
        std::vector<lt::span<char const>> run;
        auto end = first;
        int next = first->block.start;
        for (; end != writes.end() && is_written(*end) && end->block.start == next; ++end) {
            run.emplace_back(*end->block.bytes);
            next += int(end->block.bytes->size());
        }
        auto const error = files.write(at(piece, first->block.start), run);
        for (; first != end; ++first) first->block.error = error;
    }
}

Storage::Flushed Storage::end_writes(int piece, std::vector<Write> writes) {
    Flushed result;
    std::set<int> granules;
    std::lock_guard const lock(m_mutex);
    auto& state = m_pieces[piece];
    for (auto& [block, needed, digest] : writes) {
        end_accepted(piece, block);
        if (!needed) continue;
        auto const index = block.start / block_size;
        auto const writing = state.writing.find(index);
        bool const overlapped = writing->second.overlapped;
        if (--writing->second.running == 0) state.writing.erase(writing);
        if (block.wrong) continue;
        if (state.blocks.size() <= std::size_t(index)) state.blocks.resize(std::size_t(index) + 1);
        state.blocks[std::size_t(index)] = block.error || overlapped ? lt::sha256_hash() : digest;
        state.senders[index] = block.sender;
        if (block.error)
            state.failed = true;
        else
            granules.insert(index / per_granule);
    }
    for (int const granule : granules) {
        if (!prove_granule(state, piece, granule)) result.suspects.push_back(granule);
        for (int at = granule * per_granule; at < (granule + 1) * per_granule; ++at)
            if (judge_block(state, piece, at) == Judgement::kept) result.kept.push_back(at);
    }
    for (auto& write : writes) result.blocks.push_back(std::move(write.block));
    return result;
}

bool Storage::prove_granule(Piece const& state, int piece, int granule) {
    auto const expected = proof ? proof->blocks.granule(piece, granule) : std::nullopt;
    if (!expected) return true;
    int const first = granule * per_granule;
    int const end = std::min(first + per_granule, proof->blocks.blocks_in(piece));
    if (std::size_t(end) > state.blocks.size()) return true;
    for (int block = first; block < end; ++block)
        if (state.blocks[std::size_t(block)].is_all_zeros() || state.writing.count(block) > 0 ||
            m_accepted.count({piece, block * block_size}) > 0 || proof->blocks.keeps(piece, block))
            return true;
    lt::span<Hash const> const blocks(state.blocks.data() + first, end - first);
    if (root_of(blocks, per_granule) != *expected) return false;
    proof->blocks.learn(piece, first, blocks);
    return true;
}

Storage::Judgement Storage::judge_block(Piece const& state, int piece, int block) {
    if (!proof || std::size_t(block) >= state.blocks.size() || state.writing.count(block) > 0 ||
        m_accepted.count({piece, block * block_size}) > 0)
        return Judgement::open;
    auto const& digest = state.blocks[std::size_t(block)];
    auto const expected = proof->blocks.hash(piece, block);
    if (!expected || digest.is_all_zeros() || proof->blocks.keeps(piece, block)) return Judgement::open;
    if (digest != *expected) return Judgement::wrong;
    return proof->blocks.keep(piece, block) ? Judgement::kept : Judgement::open;
}

Storage::Judged Storage::judge_blocks(int piece) {
    Judged judged;
    std::lock_guard const lock(m_mutex);
    auto const found = m_pieces.find(piece);
    if (found == m_pieces.end()) return judged;
    for (int granule = 0; granule * per_granule < int(found->second.blocks.size()); ++granule)
        if (!prove_granule(found->second, piece, granule)) judged.suspects.push_back(granule);
    for (int block = 0; block < int(found->second.blocks.size()); ++block) {
        auto const judgement = judge_block(found->second, piece, block);
        if (judgement == Judgement::kept) judged.kept.push_back(block);
        if (judgement != Judgement::wrong) continue;
        judged.wrong.emplace_back(block, found->second.senders[block]);
        // Each write is judged once: the next verdict would be on a block that another peer is to send.
        found->second.blocks[std::size_t(block)].clear();
    }
    return judged;
}

void Storage::confirm(int piece, int block, std::function<void(int, int)> const& report) {
    int const start = block * block_size;
    int const length = std::min(block_size, layout.piece_size2(lt::piece_index_t(piece)) - start);
    auto error = files.restore_lost(at(piece, start), length);
    if (!error && files.wait_for_writes(at(piece, start), length)) {
        lt::sha256_hash digest;
        auto const expected = proof->blocks.hash(piece, block);
        if (hash_block(piece, start, digest) || !expected || digest != *expected) error = {EIO, -1, "prove"};
    }
    // The bytes are read again when the piece is hashed, if that is not soon.
    if (!proof->blocks.is_whole(piece)) forget_hash(piece, block);
    if (error)
        proof->blocks.drop(piece, block);
    else
        proof->blocks.confirm(piece, block, report);
}

void Storage::forget_hash(int piece, int block) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_pieces.find(piece);
    if (found == m_pieces.end()) return;
    auto& state = found->second;
    auto& blocks = state.blocks;
    if (std::size_t(block) < blocks.size()) blocks[std::size_t(block)].clear();
    state.senders.erase(block);
    if (std::any_of(blocks.begin(), blocks.end(), [](auto const& hash) { return !hash.is_all_zeros(); }))
        return;
    blocks.clear();
    if (state.running == 0 && !state.failed && state.waiting.empty()) m_pieces.erase(found);
}

Task Storage::finish(int piece) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_pieces.find(piece);
    if (found == m_pieces.end()) return {};
    auto& state = found->second;
    --state.running;
    if (state.running > 0) return {};
    if (state.waiting.empty()) {
        if (state.blocks.empty() && !state.failed) m_pieces.erase(found);
        return {};
    }
    auto task = std::move(state.waiting.front());
    state.waiting.pop_front();
    ++state.running;
    return task;
}

Task Storage::in_order(int piece, Task task) {
    std::lock_guard const lock(m_mutex);
    auto& state = m_pieces[piece];
    if (state.running > 0) {
        state.waiting.push_back(std::move(task));
        return {};
    }
    ++state.running;
    return task;
}

FileError Storage::read(int piece, int start, char* to, int length) {
    // Accepted blocks are looked up before the file is read, because a block leaves the map only after it is
    // in the file.
    std::vector<std::pair<int, Bytes>> accepted;
    {
        std::lock_guard const lock(m_mutex);
        auto entry = m_accepted.lower_bound({piece, start - start % block_size});
        for (; entry != m_accepted.end() && entry->first < std::pair(piece, start + length); ++entry)
            accepted.emplace_back(entry->first.second, entry->second);
    }
    int done = 0;
    auto next = accepted.begin();
    while (done < length) {
        int const from = start + done;
        while (next != accepted.end() && next->first + int(next->second->size()) <= from) ++next;
        if (next != accepted.end() && next->first <= from) {
            int const skip = from - next->first;
            int const count = std::min(length - done, int(next->second->size()) - skip);
            std::memcpy(to + done, next->second->data() + skip, std::size_t(count));
            done += count;
            continue;
        }
        int const count = std::min(length - done, next == accepted.end() ? length : next->first - from);
        if (auto const error = files.read(at(piece, from), to + done, count)) return error;
        done += count;
    }
    return {};
}

std::optional<std::vector<lt::sha256_hash>> Storage::hashes(int piece, int start, int end) {
    std::vector<lt::sha256_hash> found;
    for (int at = start; at < end; at += block_size)
        if (hash_block(piece, at, found.emplace_back())) return std::nullopt;
    return found;
}

bool Storage::may_send(int piece, int start, int length) {
    if (!proof || !layout.v2()) return true;
    auto& doubt = proof->doubt;
    int const whole = layout.piece_size2(lt::piece_index_t(piece));
    int const unit = doubt.unit();
    for (int from = start / unit * unit; from < std::min(start + length, whole); from += unit) {
        int const to = std::min(from + unit, whole);
        if (!doubt.covers(at(piece, from), at(piece, to))) continue;
        if (unit == granule_size) {
            auto const expected = files.granule(at(piece, from));
            auto const found = expected ? hashes(piece, from, to) : std::nullopt;
            if (found && root_of(*found, granule_size / block_size) == *expected) {
                doubt.clear(at(piece, from), at(piece, to));
                continue;
            }
        }
        // The saved hash of the granule may be wrong; the hash of the piece is proved.
        auto const found = hashes(piece, 0, whole);
        if (!found) return true;  // the read itself reports its error
        if (proof->compare(piece, *found) == Proof::Verdict::wrong) return false;
        doubt.clear(at(piece, 0), at(piece, whole));
    }
    return true;
}

FileError Storage::hash(int piece, lt::span<lt::sha256_hash> v2, lt::sha1_hash* v1) {
    std::vector<lt::sha256_hash> known;
    {
        std::lock_guard const lock(m_mutex);
        known = m_pieces[piece].blocks;
    }
    bool const written_by_us = !known.empty();
    int const own = layout.v2() ? layout.piece_size2(lt::piece_index_t(piece)) : 0;
    for (int block = 0; block < int(v2.size()); ++block) {
        if (std::size_t(block) < known.size() && !known[std::size_t(block)].is_all_zeros()) {
            v2[block] = known[std::size_t(block)];
            continue;
        }
        if (auto const error = hash_block(piece, block * block_size, v2[block])) return error;
    }
    int const whole = layout.piece_size(lt::piece_index_t(piece));
    if (v1) {
        lt::hasher hasher;
        std::vector<char> chunk(std::size_t(std::min(hash_chunk, whole)));
        for (int start = 0; start < whole; start += hash_chunk) {
            int const count = std::min(hash_chunk, whole - start);
            if (auto const error = files.read(at(piece, start), chunk.data(), count)) return error;
            hasher.update({chunk.data(), count});
        }
        *v1 = hasher.final();
    }
    if (!written_by_us) return {};
    return files.restore_lost(at(piece, 0), layout.v2() ? own : whole);
}

FileError Storage::hash_block(int piece, int start, lt::sha256_hash& to) {
    int const count = std::min(block_size, layout.piece_size2(lt::piece_index_t(piece)) - start);
    char bytes[block_size];
    if (count <= 0) return {};
    if (auto const error = read(piece, start, bytes, count)) return error;
    to = lt::hasher256(bytes, count).final();
    return {};
}

void Storage::save_granules(int piece, lt::span<lt::sha256_hash const> blocks) {
    if (proof->doubt.unit() != granule_size || !proof->proved(piece)) return;
    std::vector<lt::sha256_hash> granules;
    for (int block = 0; block < int(blocks.size()); block += per_granule)
        granules.push_back(
            root_of(blocks.subspan(block, std::min(per_granule, int(blocks.size()) - block)), per_granule));
    files.save_granules(at(piece, 0), granules);
}

std::vector<int> Storage::judge(int piece, lt::span<lt::sha256_hash> blocks) {
    std::vector<int> finished;
    if (!proof || blocks.empty() || proof->judge(piece, blocks, finished) == Proof::Verdict::wrong)
        return finished;
    if (!files.wait_for_writes(at(piece, 0), layout.piece_size2(lt::piece_index_t(piece)))) {
        save_granules(piece, blocks);
        return finished;
    }
    for (int block = 0; block < int(blocks.size()); ++block) {
        if (hash_block(piece, block * block_size, blocks[block])) {
            proof->forget(piece);
            for (auto& hash : blocks) hash.clear();
            return finished;
        }
    }
    proof->judge(piece, blocks, finished);
    save_granules(piece, blocks);
    return finished;
}

bool Storage::keeps(std::int64_t offset, std::int64_t length) const {
    if (!proof || length <= 0) return false;
    auto const last = (offset + length - 1) / layout.piece_length();
    for (auto piece = offset / layout.piece_length(); piece <= last; ++piece)
        if (proof->keeps(int(piece))) return true;
    for (auto at = offset - offset % block_size; at < offset + length; at += block_size) {
        auto const piece = int(at / layout.piece_length());
        if (proof->blocks.keeps(piece, int(at % layout.piece_length() / block_size))) return true;
    }
    return false;
}

bool Storage::proves_kept(int piece, lt::span<Hash const> blocks,
                          std::optional<std::vector<Hash>> const& granules) const {
    auto const kept = proof->blocks.kept(piece);
    int const count = int(std::min(kept.size(), std::size_t(blocks.size())));
    for (int block = 0; block < count; ++block) {
        if (!kept[std::size_t(block)]) continue;
        auto const expected = proof->blocks.hash(piece, block);
        if (expected && *expected == blocks[block]) continue;
        int const first = block - block % per_granule;
        auto const granule = blocks.subspan(first, std::min(per_granule, count - first));
        if (expected || !granules ||
            root_of(granule, per_granule) != (*granules)[std::size_t(first / per_granule)])
            return false;
    }
    return true;
}

bool Storage::failed(int piece) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_pieces.find(piece);
    return found != m_pieces.end() && found->second.failed;
}

void Storage::forget(int piece) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_pieces.find(piece);
    if (found == m_pieces.end()) return;
    // The calling task is still counted in `running`; `finish` removes the empty entry.
    found->second.failed = false;
    found->second.blocks.clear();
    found->second.senders.clear();
}

void Storage::begin() {
    std::lock_guard const lock(m_mutex);
    ++m_jobs;
}

Task Storage::end() {
    std::lock_guard const lock(m_mutex);
    if (--m_jobs > 0 || m_when_idle.empty()) return {};
    return [tasks = std::exchange(m_when_idle, {})] {
        for (auto const& task : tasks) task();
    };
}

Task Storage::when_idle(Task task) {
    std::lock_guard const lock(m_mutex);
    if (m_jobs == 0) return task;
    m_when_idle.push_back(std::move(task));
    return {};
}

}  // namespace silmaril
