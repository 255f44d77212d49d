// The engine: one libtorrent session, its torrents by our numbers, and the queue of events.
//
// Requests for a torrent that libtorrent is still adding are queued and run in order when the torrent is
// ready. All calls of torrent handles post to the network thread and return. Only `wait_until_started` and
// `shutdown` wait.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <libtorrent/alert.hpp>
#include <libtorrent/announce_entry.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/socket.hpp>
#include <libtorrent/torrent_flags.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "disk.h"
#include "guard.h"
#include "outbox.h"
#include "parts.h"
#include "proof.h"
#include "rust/cxx.h"
#include "spare.h"
#include "talk.h"
#include "turns.h"
#include "visibility.h"

namespace silmaril {

struct RawAdd;
struct RawBlocks;
struct RawEndpoint;
struct RawEvent;
struct RawItem;
struct RawMeeting;
struct RawRange;
struct RawPriority;
struct RawSetting;

// libtorrent's flags for our torrents. Without `auto_managed`, so libtorrent does not start, stop or queue
// them itself.
constexpr lt::torrent_flags_t base_flags =
    lt::torrent_flags::update_subscribe | lt::torrent_flags::duplicate_is_error |
    lt::torrent_flags::override_trackers | lt::torrent_flags::override_web_seeds |
    lt::torrent_flags::apply_ip_filter;

// Turns off every way by which libtorrent finds peers and announces itself, except trackers.
constexpr lt::torrent_flags_t no_discovery =
    lt::torrent_flags::disable_dht | lt::torrent_flags::disable_lsd | lt::torrent_flags::disable_pex;

lt::tcp::endpoint endpoint_of(RawEndpoint const& from);

class Engine {
public:
    Engine(rust::Vec<RawSetting> const& settings, DiskLimits limits,
           rust::Slice<std::uint8_t const> dht_state, bool unlisted);
    ~Engine();

    void wait_until_started() const;
    rust::Vec<RawEvent> wait(std::int32_t milliseconds) const;
    void wake() const;
    void post_stats() const;
    void add_dht_node(rust::Str host, std::uint16_t port) const;

    bool add(RawAdd const& torrent) const;
    void fetch_metadata(std::uint64_t torrent, rust::Str magnet, rust::Vec<RawEndpoint> const& peers,
                        rust::Vec<rust::String> const& trackers, std::int32_t max_connections) const;
    void meet(RawMeeting const& meeting) const;
    bool remove(std::uint64_t torrent) const;
    bool request(std::uint64_t torrent, std::uint32_t piece, std::int32_t milliseconds) const;
    bool request_blocks(std::uint64_t torrent, std::uint32_t piece, rust::Slice<RawBlocks const> blocks,
                        std::int32_t milliseconds) const;
    bool set_priority(std::uint64_t torrent, rust::Slice<RawPriority const> pieces) const;
    bool connect_peer(std::uint64_t torrent, RawEndpoint const& peer) const;
    bool redial(std::uint64_t torrent) const;
    bool withdraw(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces) const;
    bool reannounce(std::uint64_t torrent) const;
    bool add_trackers(std::uint64_t torrent, rust::Vec<rust::String> const& trackers) const;
    bool set_withheld(std::uint64_t torrent, bool withheld) const;
    bool announce_now(std::uint64_t torrent, bool dht) const;
    bool give_piece(std::uint64_t torrent, std::uint32_t piece, rust::Slice<std::uint8_t const> bytes) const;
    bool save_layers(std::uint64_t torrent, bool export_all) const;
    bool recover(std::uint64_t torrent) const;

    bool send_message(std::uint64_t peer, rust::Slice<std::uint8_t const> message) const;
    void disconnect(std::uint64_t peer, bool misbehaved) const;
    void trust_host(rust::Str address) const;
    void block_addresses(rust::Vec<RawRange> const& ranges) const;

    void dht_announce(std::array<std::uint8_t, 20> const& topic, std::uint16_t port) const;
    void dht_find(std::array<std::uint8_t, 20> const& topic) const;
    void dht_put(RawItem const& item) const;
    void dht_get(std::array<std::uint8_t, 32> const& publisher,
                 std::array<std::uint8_t, 20> const& salt) const;

    rust::Vec<std::uint8_t> dht_state() const;
    std::int32_t upload_limit() const;

    std::uint32_t saves_pending() const;
    void pause() const;
    bool shutdown(std::int32_t milliseconds) const;

private:
    using Request = std::function<void(lt::torrent_handle const&)>;
    struct Torrent {
        lt::torrent_handle handle;
        bool ready = false;                            // libtorrent has added it with its present pieces
        std::vector<Request> waiting;                  // requests until it is ready
        std::shared_ptr<lt::torrent_info const> info;  // null for a magnet
        std::shared_ptr<Proof> proof;                  // null for a magnet
        std::shared_ptr<Parts> parts;                  // null for a magnet
        std::unordered_set<std::uint32_t> requested;   // pieces with a deadline
        std::deque<bool> saves;  // pending calls of `save_layers`, in order: whether to export all
        std::shared_ptr<Visibility> visibility = std::make_shared<Visibility>();
        // The trackers, and the flags of discovery that are off, as they are while the torrent is not
        // withheld.
        lt::torrent_flags_t off = {};
        std::vector<lt::announce_entry> trackers;
        bool removing = false;
        bool wants_metadata = false;
    };

    void add_to_session(std::uint64_t torrent, lt::add_torrent_params params, Torrent state) const;
    // Runs the request, now or when the torrent is ready. False if the torrent does not exist.
    bool with(std::uint64_t torrent, Request request) const;
    // `with`, for a call of libtorrent's own torrent on the network thread.
    bool on_network(std::uint64_t torrent, std::function<void(lt::torrent&)> call) const;
    // `on_network`, for an order that makes libtorrent request a piece (see Parts::order).
    bool on_order(std::uint64_t torrent, Torrent const& state, std::uint32_t piece,
                  std::function<void(lt::torrent&)> order) const;
    Torrent* find(std::uint64_t torrent) const;
    Torrent& with_piece(Torrent& torrent, std::uint32_t piece) const;
    // Handles the alerts that change the state above. True if the alert needs no further handling.
    bool handle(lt::alert const& alert, rust::Vec<RawEvent>& events) const;
    void answer_save(std::uint64_t torrent, lt::add_torrent_params const* saved,
                     rust::Vec<RawEvent>& events) const;

    std::shared_ptr<Outbox> const m_outbox;
    std::shared_ptr<Talk> const m_talk;
    std::shared_ptr<Guard> const m_guard;
    std::shared_ptr<Turns> const m_turns;
    std::shared_ptr<Spare> m_spare;  // set by the constructor
    bool const m_unlisted;           // see Visibility
    mutable std::mutex m_mutex;      // guards all below; held only to post, never to wait
    mutable std::unique_ptr<lt::session> m_session;
    mutable std::unordered_map<std::uint64_t, Torrent> m_torrents;
};

std::unique_ptr<Engine> start_engine(rust::Vec<RawSetting> const& settings, std::int32_t disk_threads,
                                     std::int32_t open_files, rust::Slice<std::uint8_t const> dht_state,
                                     bool unlisted);

}  // namespace silmaril
