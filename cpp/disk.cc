#include "disk.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <libtorrent/disk_buffer_holder.hpp>
#include <libtorrent/disk_observer.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/io_context.hpp>
#include <libtorrent/peer_request.hpp>
#include <libtorrent/settings_pack.hpp>
#include <optional>

#include "compat.h"
#include "disk_errors.h"
#include "leaves.h"
#include "pool.h"
#include "storage.h"

namespace silmaril {

namespace {

class Disk final : public lt::disk_interface, private lt::buffer_allocator_interface {
public:
    Disk(lt::io_context& context, lt::settings_interface const& settings, std::shared_ptr<Outbox> outbox,
         DiskLimits limits)
        : m_context(context),
          m_work(boost::asio::make_work_guard(context)),
          m_settings(settings),
          m_outbox(std::move(outbox)),
          m_descriptors(std::size_t(std::max(limits.open_files, 1))),
          m_pool(limits.threads, [this] { m_work.reset(); }) {
        settings_updated();
        close_idle_later();
    }

    lt::storage_holder new_torrent(lt::storage_params const& params, std::shared_ptr<void> const&) override {
        auto const torrent = torrent_of(params.path).value_or(0);
        auto given = m_outbox->files_of(torrent).value_or(std::vector<GivenFile>{});
        auto storage = std::make_shared<Storage>(
            torrent, params.files, std::move(given), m_outbox->proof_of(torrent), m_descriptors,
            m_shared_paths, m_next_key++, [this, torrent](std::string const& path) {
                report(torrent, path, ENOENT, "the file was removed or replaced while in use");
            });
        if (storage->proof) serve(*storage->proof, storage);
        std::size_t slot = 0;
        while (slot < m_storages.size() && m_storages[slot]) ++slot;
        if (slot == m_storages.size()) m_storages.emplace_back();
        m_storages[slot] = std::move(storage);
        m_outbox->storage_opened(torrent);
        return lt::storage_holder(lt::storage_index_t(std::uint32_t(slot)), *this);
    }

    void remove_torrent(lt::storage_index_t index) override {
        auto storage = std::exchange(m_storages[std::size_t(static_cast<std::uint32_t>(index))], nullptr);
        auto const torrent = storage->torrent;
        if (storage->proof) stop_serving(*storage->proof);
        run_now(storage->when_idle([storage, outbox = m_outbox, torrent] {
            storage->files.close();
            outbox->storage_closed(torrent);
        }));
    }

    void async_read(lt::storage_index_t index, lt::peer_request const& r,
                    std::function<void(lt::disk_buffer_holder, lt::storage_error const&)> handler,
                    lt::disk_job_flags_t) override {
        job(index, true, [this, r, handler = std::move(handler)](Storage& storage) mutable {
            auto* const bytes = static_cast<char*>(std::malloc(std::size_t(std::max(r.length, block_size))));
            lt::disk_buffer_holder buffer(*this, bytes, r.length);
            FileError failure{ENOMEM, -1, "allocate"};
            if (bytes) failure = storage.read(static_cast<int>(r.piece), r.start, bytes, r.length);
            lt::storage_error error;
            if (failure) {
                report(storage, failure);
                error = read_failed(failure);
                buffer.reset();
            } else if (!storage.may_send(static_cast<int>(r.piece), r.start, r.length)) {
                report_damaged(storage, static_cast<int>(r.piece));
                error = given_up();
                buffer.reset();
            } else if (storage.proof && !storage.proof->proved(static_cast<int>(r.piece)) &&
                       !storage.proof->blocks.offers(static_cast<int>(r.piece), r.start, r.length)) {
                // The bytes were withdrawn, perhaps during the read, so the file may have a hole there.
                // libtorrent rejects the request.
                error = given_up();
                buffer.reset();
            }
            post([handler = std::move(handler), buffer = std::move(buffer), error]() mutable {
                handler(std::move(buffer), error);
            });
        });
    }

    bool async_write(lt::storage_index_t index, lt::peer_request const& r, char const* from,
                     std::shared_ptr<lt::disk_observer> observer,
                     std::function<void(lt::storage_error const&)> handler, lt::disk_job_flags_t) override {
        auto const storage = at(index);
        int const piece = static_cast<int>(r.piece);
        bool const barred = observer && storage->proof && storage->proof->blocks.is_barred(piece);
        // Writes of pieces from add_piece have no observer. If such a write fails, libtorrent does not reset
        // the piece. Therefore success is reported; then the hash does not match, and that resets the piece.
        Storage::Block block{r.start, std::make_shared<std::vector<char> const>(from, from + r.length),
                             !observer, std::move(handler), observer};
        auto const accepted = barred ? Storage::Accepted::no : storage->accept(piece, block);
        if (accepted == Storage::Accepted::no) {
            post([handler = std::move(block.handler), error = barred ? dropped() : lt::storage_error()] {
                handler(error);
            });
            return false;
        }
        bool const full = m_queued.fetch_add(r.length) + r.length > m_max_queued;
        if (full && observer) {
            std::lock_guard const lock(m_observers_mutex);
            m_observers.push_back(observer);
        }
        // The queue may have become empty since.
        if (full) release(0);
        if (accepted == Storage::Accepted::flush)
            m_flushes.push_back(counted(storage, [this, piece](Storage& s) { this->flush(s, piece); }));
        if (m_aborted) submit_jobs();
        return full;
    }

    void async_hash(lt::storage_index_t index, lt::piece_index_t piece, lt::span<lt::sha256_hash> v2,
                    lt::disk_job_flags_t flags,
                    std::function<void(lt::piece_index_t, lt::sha1_hash const&, lt::storage_error const&)>
                        handler) override {
        bool const want_v1 = bool(flags & lt::disk_interface::v1_hash);
        in_order(index, static_cast<int>(piece),
                 [this, piece, v2, want_v1, handler = std::move(handler)](Storage& s) mutable {
                     lt::sha1_hash v1;
                     lt::storage_error error;
                     int const number = static_cast<int>(piece);
                     if (s.proof) s.proof->forget(number);
                     if (s.proof && s.proof->blocks.is_barred(number)) {
                         // Its blocks were dropped. With this error libtorrent neither counts the piece nor
                         // blames a peer.
                         error = given_up();
                     } else if (s.failed(number)) {
                         // libtorrent already handles the failed write; for a given piece, the zeros make the
                         // hash fail.
                         for (auto& hash : v2) hash.clear();
                     } else if (auto const failure = s.hash(number, v2, want_v1 ? &v1 : nullptr)) {
                         report(s, failure);
                         v1.clear();
                         for (auto& hash : v2) hash.clear();
                         // Only while a torrent is created an error is returned. In a running torrent the
                         // piece would then be neither present nor wanted. A hash that does not match makes
                         // libtorrent fetch it again.
                         if (s.torrent == 0) error = read_failed(failure);
                     } else {
                         for (int const one : s.judge(number, v2)) report_proved(s, one);
                         // Kept blocks were read again, and a program has changed them. No peer is to blame.
                         if (s.proof && !v2.empty() && s.proof->blocks.keeps_any(number) &&
                             s.proof->compare(number, v2) == Proof::Verdict::wrong &&
                             !s.proves_kept(number, v2, granules_of(s, number))) {
                             s.proof->blocks.forget(number);
                             report(Note::Kind::piece_damaged, s.torrent, number);
                             error = given_up();
                         }
                     }
                     s.forget(number);
                     post([handler = std::move(handler), piece, v1, error] { handler(piece, v1, error); });
                 });
    }

    void async_hash2(lt::storage_index_t index, lt::piece_index_t piece, int offset, lt::disk_job_flags_t,
                     std::function<void(lt::piece_index_t, lt::sha256_hash const&, lt::storage_error const&)>
                         handler) override {
        job(index, true, [this, piece, offset, handler = std::move(handler)](Storage& storage) mutable {
            lt::sha256_hash hash;
            lt::storage_error error;
            if (auto const failure = storage.hash_block(static_cast<int>(piece), offset, hash)) {
                report(storage, failure);
                error = read_failed(failure);
            }
            post([handler = std::move(handler), piece, hash, error] { handler(piece, hash, error); });
        });
    }

    // Rust decides the paths of files. libtorrent must never move, rename or delete them.
    void async_move_storage(
        lt::storage_index_t, std::string path, lt::move_flags_t,
        std::function<void(lt::status_t, std::string const&, lt::storage_error const&)> handler) override {
        post([handler = std::move(handler), path] {
            handler(lt::status_t::fatal_disk_error, path, given_up());
        });
    }
    void async_rename_file(lt::storage_index_t, lt::file_index_t file, std::string name,
                           std::function<void(std::string const&, lt::file_index_t, lt::storage_error const&)>
                               handler) override {
        post([handler = std::move(handler), file, name] { handler(name, file, given_up()); });
    }
    void async_delete_files(lt::storage_index_t, lt::remove_flags_t,
                            std::function<void(lt::storage_error const&)> handler) override {
        post([handler = std::move(handler)] { handler(given_up()); });
    }

    void async_release_files(lt::storage_index_t index, std::function<void()> handler) override {
        auto const storage = at(index);
        run_now(storage->when_idle([this, storage, handler = std::move(handler)]() mutable {
            storage->files.close();
            if (handler) post(std::exchange(handler, nullptr));
        }));
    }
    void async_stop_torrent(lt::storage_index_t index, std::function<void()> handler) override {
        async_release_files(index, std::move(handler));
    }

    // The pieces that are present were passed with the torrent, so nothing is checked.
    void async_check_files(lt::storage_index_t, lt::add_torrent_params const*,
                           lt::aux::vector<std::string, lt::file_index_t>,
                           std::function<void(lt::status_t, lt::storage_error const&)> handler) override {
        post([handler = std::move(handler)] { handler(lt::status_t::no_error, {}); });
    }

    // Only pieces have priorities, files have none.
    void async_set_file_priority(
        lt::storage_index_t, lt::aux::vector<lt::download_priority_t, lt::file_index_t> priorities,
        std::function<void(lt::storage_error const&,
                           lt::aux::vector<lt::download_priority_t, lt::file_index_t>)>
            handler) override {
        post([handler = std::move(handler), priorities] { handler({}, priorities); });
    }

    void async_clear_piece(lt::storage_index_t index, lt::piece_index_t piece,
                           std::function<void(lt::piece_index_t)> handler) override {
        in_order(index, static_cast<int>(piece),
                 [this, piece, handler = std::move(handler)](Storage& storage) mutable {
                     storage.forget(static_cast<int>(piece));
                     if (storage.proof) storage.proof->forget(static_cast<int>(piece));
                     post([handler = std::move(handler), proof = storage.proof, piece] {
                         handler(piece);
                         if (proof && proof->cleared) proof->cleared();
                     });
                 });
    }

    void update_stats_counters(lt::counters&) const override {}
    std::vector<lt::open_file_state> get_status(lt::storage_index_t) const override { return {}; }
    void abort(bool wait) override {
        m_aborted = true;
        m_idle.cancel();
        submit_jobs();
        m_pool.stop(wait);
    }
    // libtorrent calls this some time after each `async_write`: until then it passes on all blocks that a
    // connection has received together. Other jobs start when they are queued.
    void submit_jobs() override {
        for (auto& flush : std::exchange(m_flushes, {})) m_pool.run_soon(std::move(flush), false);
    }

    void settings_updated() override {
        m_max_queued = m_settings.get_int(lt::settings_pack::max_queued_disk_bytes);
    }

private:
    void close_idle_later() {
        m_idle.expires_after(std::chrono::seconds(30));
        m_idle.async_wait([this](boost::system::error_code const& cancelled) {
            if (cancelled || m_aborted) return;
            m_descriptors.close_idle();
            close_idle_later();
        });
    }
    void free_disk_buffer(char* buffer) override { std::free(buffer); }

    std::shared_ptr<Storage> at(lt::storage_index_t index) const {
        return m_storages[std::size_t(static_cast<std::uint32_t>(index))];
    }

    // Moves the handler to the network thread. A handler may own the torrent, which must be destroyed there.
    template <typename Handler>
    void post(Handler&& handler) {
        boost::asio::post(m_context, std::forward<Handler>(handler));
    }

    static void run_now(Task const& task) {
        if (task) task();
    }
    void after(Task task) {
        if (task) m_pool.run_soon(std::move(task), true);
    }

    template <typename Work>
    Task counted(std::shared_ptr<Storage> storage, Work work) {
        storage->begin();
        // Shared, because std::function must be copyable.
        auto shared = std::make_shared<Work>(std::move(work));
        return [storage = std::move(storage), shared] {
            (*shared)(*storage);
            run_now(storage->end());
        };
    }

    template <typename Work>
    void job(lt::storage_index_t index, bool urgent, Work work) {
        m_pool.run_soon(counted(at(index), std::move(work)), urgent);
    }

    // Runs `work` after all earlier tasks of the piece.
    template <typename Work>
    void in_order(lt::storage_index_t index, int piece, Work work) {
        auto const storage = at(index);
        after(storage->in_order(piece,
                                counted(storage, [this, piece, work = std::move(work)](Storage& s) mutable {
                                    work(s);
                                    after(s.finish(piece));
                                })));
    }

    void report(Storage const& storage, FileError const& failure) {
        int const error = failure.error == error_short_file ? ENODATA : failure.error;
        report(storage.torrent, storage.files.path(failure.file), error, failure.operation);
    }
    void report(std::uint64_t torrent, std::string path, int error, std::string operation) {
        Note note{};
        note.kind = Note::Kind::disk_error;
        note.torrent = torrent;
        note.path = std::move(path);
        note.text = std::move(operation);
        note.error = error;
        m_outbox->push(std::move(note));
    }

    // Gives the torrent's proof access to the blocks in the files.
    void serve(Proof& proof, std::shared_ptr<Storage> const& storage) {
        std::weak_ptr<Storage> const weak = storage;
        proof.blocks.came = [this, weak](int piece) {
            auto const now = weak.lock();
            if (!now) return;
            m_pool.run_soon(counted(now, [this, piece](Storage& s) { judge(s, piece); }), true);
        };
        proof.hashes_of = [this, weak](HashRange const& range, Proof::Answered answered) {
            auto const now = weak.lock();
            if (!now) return false;
            m_pool.run_soon(counted(now,
                                    [this, range, answered = std::move(answered)](Storage& s) mutable {
                                        post([hashes = hashes_of(s, range), answered = std::move(answered)] {
                                            answered(hashes);
                                        });
                                    }),
                            true);
            return true;
        };
        proof.granules_came = [this, weak](int piece, std::vector<Hash> hashes) {
            auto const now = weak.lock();
            if (!now) return;
            m_pool.run_soon(counted(now,
                                    [this, piece, hashes = std::move(hashes)](Storage& s) {
                                        s.files.save_granules(std::int64_t(piece) * s.layout.piece_length(),
                                                              hashes);
                                        note_granules(s, piece);
                                        judge(s, piece);
                                    }),
                            true);
        };
        auto kept = proof.blocks.pieces();
        if (kept.empty()) return;
        m_pool.run_soon(counted(storage,
                                [kept = std::move(kept)](Storage& s) {
                                    for (int const piece : kept) note_granules(s, piece);
                                }),
                        false);
    }
    static void stop_serving(Proof& proof) {
        proof.blocks.came = nullptr;
        proof.hashes_of = nullptr;
        proof.granules_came = nullptr;
    }

    void flush(Storage& storage, int piece) {
        auto flushed = storage.flush(piece);
        int bytes = 0;
        std::vector<std::pair<std::function<void(lt::storage_error const&)>, lt::storage_error>> results;
        for (auto& block : flushed.blocks) {
            bytes += int(block.bytes->size());
            if (block.error) report(storage, block.error);
            lt::storage_error error;
            if (!block.given && block.error) error = write_refused();
            if (!block.given && (block.refused || block.wrong)) error = dropped();
            if (block.wrong) report_wrong(storage.proof, piece, block.start / block_size, block.sender);
            results.emplace_back(std::move(block.handler), error);
        }
        // Posted before the next task of the piece starts: libtorrent must receive the result of the write
        // before that of the hash.
        post([results = std::move(results)] {
            for (auto const& [handler, error] : results) handler(error);
        });
        for (int const block : flushed.kept) confirm(storage, piece, block);
        for (int const granule : flushed.suspects) report_suspect(storage.proof, piece, granule);
        after(storage.finish(piece));
        release(bytes);
    }

    static void note_granules(Storage& storage, int piece) {
        if (auto const saved = granules_of(storage, piece))
            storage.proof->blocks.granules_saved(piece, *saved);
    }

    void judge(Storage& storage, int piece) {
        auto const judged = storage.judge_blocks(piece);
        for (int const granule : judged.suspects) report_suspect(storage.proof, piece, granule);
        for (auto const& [block, sender] : judged.wrong) report_wrong(storage.proof, piece, block, sender);
        for (int const block : judged.kept) confirm(storage, piece, block);
    }

    // Reports the blocks that are readable now.
    void confirm(Storage& storage, int piece, int block) {
        bool reported = false;
        storage.confirm(piece, block, [&](int first, int count) {
            Note note{};
            note.kind = Note::Kind::blocks_proved;
            note.torrent = storage.torrent;
            note.piece = piece;
            note.first = first;
            note.count = count;
            m_outbox->push(std::move(note));
            reported = true;
        });
        if (!reported) return;
        post([proof = storage.proof, piece, whole = storage.proof->blocks.keeps_all(piece)] {
            if (proof->blocks.offered_more) proof->blocks.offered_more();
            if (whole && proof->blocks.whole) proof->blocks.whole(piece);
        });
    }

    void report_suspect(std::shared_ptr<Proof> const& proof, int piece, int granule) {
        post([proof, piece, granule] {
            if (proof->blocks.suspect) proof->blocks.suspect(piece, granule);
        });
    }

    void report_wrong(std::shared_ptr<Proof> const& proof, int piece, int block, Sender const& sender) {
        post([proof, piece, block, sender] {
            if (proof->blocks.wrong) proof->blocks.wrong(piece, block, sender);
        });
    }

    void report_proved(Storage const& storage, int piece) {
        storage.proof->blocks.unless_barred(
            piece, [&] { report(Note::Kind::piece_proved, storage.torrent, piece); });
    }
    // Proved bytes are wrong on the disk. Each damage is reported once.
    void report_damaged(Storage const& storage, int piece) {
        if (!storage.proof->proved(piece)) return;
        storage.proof->forget(piece);
        report(Note::Kind::piece_damaged, storage.torrent, piece);
    }
    void report(Note::Kind kind, std::uint64_t torrent, int piece) {
        Note note{};
        note.kind = kind;
        note.torrent = torrent;
        note.piece = piece;
        m_outbox->push(std::move(note));
    }

    // Bytes have left the write queue. When half of it is free, libtorrent reads again from the paused peers.
    void release(int bytes) {
        if (m_queued.fetch_sub(bytes) - bytes > m_max_queued / 2) return;
        std::vector<std::weak_ptr<lt::disk_observer>> observers;
        {
            std::lock_guard const lock(m_observers_mutex);
            observers.swap(m_observers);
        }
        if (observers.empty()) return;
        post([observers = std::move(observers)] {
            for (auto const& weak : observers)
                if (auto const observer = weak.lock()) observer->on_disk();
        });
    }

    lt::io_context& m_context;
    // Keeps libtorrent's loop running while a job may still post its result.
    std::optional<boost::asio::executor_work_guard<lt::io_context::executor_type>> m_work;
    lt::settings_interface const& m_settings;
    std::shared_ptr<Outbox> const m_outbox;
    DescriptorPool m_descriptors;
    boost::asio::steady_timer m_idle{m_context};
    bool m_aborted = false;  // network thread only
    SharedPaths m_shared_paths;
    std::uint64_t m_next_key = 0;
    std::vector<std::shared_ptr<Storage>> m_storages;  // by storage index; network thread only
    std::vector<Task> m_flushes;                       // that `submit_jobs` starts; network thread only
    std::atomic<std::int64_t> m_queued{0};
    std::atomic<std::int64_t> m_max_queued{0};
    std::mutex m_observers_mutex;
    std::vector<std::weak_ptr<lt::disk_observer>> m_observers;
    Pool m_pool;  // last, because its threads use all members above
};

}  // namespace

lt::disk_io_constructor_type disk_constructor(std::shared_ptr<Outbox> outbox, DiskLimits limits) {
    return [outbox = std::move(outbox), limits](lt::io_context& context,
                                                lt::settings_interface const& settings, lt::counters&) {
        return std::make_unique<Disk>(context, settings, outbox, limits);
    };
}

}  // namespace silmaril
