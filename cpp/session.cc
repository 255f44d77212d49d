#include "session.h"

#include <algorithm>
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/magnet_uri.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/torrent.hpp>
#include <stdexcept>
#include <thread>

#include "compat.h"
#include "dht.h"
#include "dial.h"
#include "disk.h"
#include "events.h"
#include "layers.h"
#include "metadata_link.h"
#include "plugin.h"
#include "room.h"
#include "silmaril/src/ffi.rs.h"

namespace silmaril {

namespace {

// Most known peers to which a torrent connects at the same time. Bounded, because each attempt costs a
// packet.
constexpr std::size_t max_dialled = 32;

// Most DHT nodes that are used from the last run. Each costs a packet immediately, and a few are sufficient.
constexpr std::size_t max_known_nodes = 200;

lt::settings_pack pack_of(rust::Vec<RawSetting> const& settings) {
    lt::settings_pack pack;
    for (auto const& setting : settings) {
        int const name = lt::setting_by_name(std::string(setting.name));
        if (name < 0) throw std::runtime_error("libtorrent has no setting " + std::string(setting.name));
        switch (setting.kind) {
            case RawSettingKind::Integer:
                pack.set_int(name, int(setting.number));
                break;
            case RawSettingKind::Boolean:
                pack.set_bool(name, setting.number != 0);
                break;
            default:
                pack.set_str(name, std::string(setting.text));
        }
    }
    pack.set_int(
        lt::settings_pack::alert_mask,
        int(static_cast<std::uint32_t>(lt::alert_category::error | lt::alert_category::status |
                                       lt::alert_category::piece_progress | lt::alert_category::storage |
                                       lt::alert_category::dht | lt::alert_category::dht_operation)));
    return pack;
}

lt::span<char const> span_of(rust::Vec<std::uint8_t> const& bytes) {
    return {reinterpret_cast<char const*>(bytes.data()), std::ptrdiff_t(bytes.size())};
}

void post_call(Talk& talk, lt::torrent_handle const& handle, std::function<void(lt::torrent&)> call) {
    talk.post([handle, call = std::move(call)] {
        try {
            if (auto const torrent = handle.native_handle()) call(*torrent);
        } catch (std::exception const&) {
            // If the connection fails now, it is tried again later.
        }
    });
}

}  // namespace

lt::tcp::endpoint endpoint_of(RawEndpoint const& from) {
    lt::error_code error;
    auto const address = lt::make_address(std::string(from.address), error);
    if (error) throw std::runtime_error("not an address: " + std::string(from.address));
    return {address, from.port};
}

std::unique_ptr<Engine> start_engine(rust::Vec<RawSetting> const& settings, std::int32_t disk_threads,
                                     std::int32_t open_files, rust::Slice<std::uint8_t const> dht_state,
                                     bool unlisted) {
    return std::make_unique<Engine>(settings, DiskLimits{disk_threads, open_files}, dht_state, unlisted);
}

Engine::Engine(rust::Vec<RawSetting> const& settings, DiskLimits limits,
               rust::Slice<std::uint8_t const> dht_state, bool unlisted)
    : m_outbox(std::make_shared<Outbox>()),
      m_talk(std::make_shared<Talk>()),
      m_guard(std::make_shared<Guard>()),
      m_turns(std::make_shared<Turns>(std::max(1, limits.threads / 2))),
      m_unlisted(unlisted) {
    auto pack = pack_of(settings);
    if (unlisted) announce_no_port(pack);
    auto plugins = session_plugins();
    plugins.push_back(send_room(m_guard));
    lt::session_params params(std::move(pack), std::move(plugins));
    auto const known = parse_dht_state(dht_state);
    params.dht_state = known;
    params.disk_io_constructor = [talk = m_talk, disk = disk_constructor(m_outbox, limits)](
                                     lt::io_context& network, lt::settings_interface const& all,
                                     lt::counters& counters) {
        // Only here libtorrent gives access to the queue of its network thread.
        talk->open(network);
        return disk(network, all, counters);
    };
    m_session = std::make_unique<lt::session>(std::move(params));
    m_spare = std::make_shared<Spare>(m_session->create_peer_class("wasters"));
    m_session->add_extension(limit_wasters(m_spare));
    // By default peers on private networks are in their own class without rate limits. Put into the global
    // class they obey the limits of the session.
    lt::ip_filter all_global;
    constexpr std::uint32_t global = 1u << static_cast<std::uint32_t>(lt::session::global_peer_class_id);
    all_global.add_rule(lt::make_address("0.0.0.0"), lt::make_address("255.255.255.255"), global);
    all_global.add_rule(lt::make_address("::"), lt::make_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
                        global);
    m_session->set_peer_class_filter(all_global);
    // libtorrent only queries the nodes of the saved state for further nodes and does not keep them.
    // Therefore they are added explicitly, like the configured nodes.
    std::size_t added = 0;
    for (auto const* nodes : {&known.nodes, &known.nodes6})
        for (auto const& node : *nodes)
            if (added++ < max_known_nodes)
                m_session->add_dht_node({node.address().to_string(), int(node.port())});
    m_session->set_alert_notify([outbox = m_outbox] { outbox->wake(); });
}

Engine::~Engine() {
    try {
        shutdown(0);
    } catch (...) {
        // A destructor must not throw.
    }
}

void Engine::wait_until_started() const {
    // The network thread answers after all earlier posts. The lock is not needed, because no other thread
    // uses the session yet.
    if (m_session) (void)m_session->listen_port();
}

void Engine::wake() const { m_outbox->wake(); }

std::int32_t Engine::upload_limit() const {
    lt::session_handle session;
    {
        std::lock_guard const lock(m_mutex);
        if (m_session) session = *m_session;
    }
    if (!session.is_valid()) throw std::runtime_error("the session is over");
    return session.get_peer_class(lt::session_handle::global_peer_class_id).upload_limit;
}

void Engine::post_stats() const {
    std::lock_guard const lock(m_mutex);
    if (!m_session) return;
    m_session->post_torrent_updates({});
    m_session->post_session_stats();
}

void Engine::add_dht_node(rust::Str host, std::uint16_t port) const {
    std::lock_guard const lock(m_mutex);
    if (m_session) m_session->add_dht_node({std::string(host), int(port)});
}

bool Engine::add(RawAdd const& from) const {
    auto metainfo = parse_metainfo(span_of(from.metainfo));
    if (metainfo.info->info_hashes().v2 !=
        lt::sha256_hash(reinterpret_cast<char const*>(from.info_hash.data())))
        throw std::runtime_error("the metainfo has another info hash");
    int const pieces = metainfo.info->num_pieces();
    if (from.have.size() != std::size_t(pieces + 7) / 8)
        throw std::runtime_error("the map of pieces has the wrong length");
    auto const& layout = metainfo.info->orig_files();
    std::size_t files = 0;
    for (auto const file : layout.file_range())
        if (!layout.pad_file_at(file)) ++files;
    if (files != from.paths.size())
        throw std::runtime_error("the number of paths is not the number of files");

    lt::add_torrent_params params;
    params.ti = metainfo.info;
    params.save_path = save_path_of(from.torrent);
    params.storage_mode = lt::storage_mode_sparse;
    params.flags = base_flags;
    if (!from.dht) params.flags |= lt::torrent_flags::disable_dht;
    if (!from.lan) params.flags |= lt::torrent_flags::disable_lsd;
    if (!from.pex) params.flags |= lt::torrent_flags::disable_pex;
    params.max_connections = from.max_connections;
    for (auto const& peer : from.peers) params.peers.push_back(endpoint_of(peer));
    for (auto const& tracker : from.trackers) params.trackers.emplace_back(std::string(tracker));
    params.have_pieces.resize(pieces, false);
    for (int piece = 0; piece < pieces; ++piece)
        if (from.have[std::size_t(piece) / 8] & (0x80 >> (piece % 8)))
            params.have_pieces.set_bit(lt::piece_index_t(piece));
    // Only piece priorities are used: libtorrent writes files of priority 0 to a part file.
    if (from.lazy) params.piece_priorities.assign(std::size_t(pieces), lt::dont_download);
    if (!from.resume.empty() && !metainfo.all_layers) load_layers(span_of(from.resume), params);

    std::vector<GivenFile> given;
    given.reserve(files);
    std::vector<std::pair<std::int64_t, std::int64_t>> doubted;
    for (auto const file : layout.file_range()) {
        if (layout.pad_file_at(file)) continue;
        auto const& raw = from.paths[given.size()];
        auto const& path = raw.bytes;
        bool has_pieces = false;
        auto const first = layout.piece_index_at_file(file);
        for (int i = 0; i < layout.file_num_pieces(file) && !has_pieces; ++i)
            has_pieces = params.have_pieces.get_bit(first + lt::piece_index_t::diff_type(i));
        std::optional<FileStamp> fixed;
        if (raw.fixed) fixed.emplace(raw.size, raw.mtime_ns, raw.inode);
        auto const text = [](rust::Vec<std::uint8_t> const& bytes) {
            return std::string(reinterpret_cast<char const*>(bytes.data()), bytes.size());
        };
        if (raw.doubted) doubted.emplace_back(layout.file_offset(file), layout.file_size(file));
        given.push_back({text(path), has_pieces, fixed, raw.changed_ns, text(raw.granules)});
    }
    Torrent state;
    state.info = metainfo.info;
    state.visibility->withheld = from.withheld;
    state.proof = std::make_shared<Proof>(layout);
    state.proof->learn(*metainfo.info, params);
    state.proof->set_proved(params.have_pieces);
    for (auto const& part : from.kept)
        state.proof->blocks.restore(int(part.piece), int(part.first), int(part.count));
    state.parts =
        std::make_shared<Parts>(state.proof, [outbox = m_outbox, torrent = from.torrent](int piece) {
            Note note{};
            note.kind = Note::Kind::blocks_refused;
            note.torrent = torrent;
            note.piece = piece;
            outbox->push(std::move(note));
        });
    for (auto const& [offset, size] : doubted) state.proof->doubt.raise(offset, offset + size);
    m_outbox->register_files(from.torrent, std::move(given), state.proof);

    add_to_session(from.torrent, std::move(params), std::move(state));
    return metainfo.all_layers;
}

void Engine::fetch_metadata(std::uint64_t torrent, rust::Str magnet, rust::Vec<RawEndpoint> const& peers,
                            rust::Vec<rust::String> const& trackers, std::int32_t max_connections) const {
    lt::error_code error;
    auto params = lt::parse_magnet_uri(std::string(magnet), error);
    if (error) throw std::runtime_error(error.message());
    params.save_path = save_path_of(torrent);
    // In upload mode libtorrent fetches only the metadata; the torrent has no files.
    params.flags = base_flags | lt::torrent_flags::upload_mode;
    params.max_connections = max_connections;
    for (auto const& peer : peers) params.peers.push_back(endpoint_of(peer));
    for (auto const& tracker : trackers) params.trackers.emplace_back(std::string(tracker));
    params.tracker_tiers.clear();
    // The author of the link chose the web seeds. libtorrent would connect to them after it has the metadata.
    params.url_seeds.clear();
    m_outbox->register_files(torrent, {}, nullptr);
    Torrent state;
    state.wants_metadata = true;
    add_to_session(torrent, std::move(params), std::move(state));
}

void Engine::add_to_session(std::uint64_t torrent, lt::add_torrent_params params, Torrent state) const {
    params.userdata = tag_of(torrent);
    state.visibility->unlisted = m_unlisted;
    if (m_unlisted) params.flags |= lt::torrent_flags::disable_dht | lt::torrent_flags::disable_lsd;
    state.off = params.flags & no_discovery;
    for (auto const& url : params.trackers) state.trackers.emplace_back(url);
    if (state.visibility->withheld) {
        params.flags |= no_discovery;
        params.trackers.clear();
    }
    params.extensions.push_back(
        [parts = PluginParts{m_outbox, m_talk, m_guard, m_spare, m_turns, state.proof, state.parts,
                             state.visibility, torrent, state.wants_metadata}](
            lt::torrent_handle const& handle, lt::client_data_t) { return make_plugin(parts, handle); });
    std::lock_guard const lock(m_mutex);
    if (!m_session) throw std::runtime_error("the session is over");
    m_torrents.emplace(torrent, std::move(state));
    m_session->async_add_torrent(std::move(params));
}

Engine::Torrent* Engine::find(std::uint64_t torrent) const {
    auto const found = m_torrents.find(torrent);
    if (!m_session || found == m_torrents.end() || found->second.removing) return nullptr;
    return &found->second;
}

bool Engine::with(std::uint64_t torrent, Request request) const {
    auto* const state = find(torrent);
    if (!state) return false;
    if (!state->ready) {
        state->waiting.push_back(std::move(request));
        return true;
    }
    try {
        request(state->handle);
    } catch (lt::system_error const&) {
        return false;  // libtorrent has already removed it
    }
    return true;
}

bool Engine::remove(std::uint64_t torrent) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    state->waiting.clear();
    state->removing = true;
    if (state->handle.is_valid()) {
        m_session->remove_torrent(state->handle);
        return true;
    }
    // libtorrent is still adding it. It is removed directly after that, without waiting for the alert, so
    // that another torrent with the same info hash can be added next.
    m_talk->post([talk = m_talk.get(), torrent, session = lt::session_handle(*m_session)]() mutable {
        try {
            auto const handle = talk->torrent(torrent);
            if (handle.is_valid()) session.remove_torrent(handle);
        } catch (lt::system_error const&) {
            // The session has ended.
        }
    });
    return true;
}

bool Engine::on_network(std::uint64_t torrent, std::function<void(lt::torrent&)> call) const {
    return with(torrent, [talk = m_talk.get(), call = std::move(call)](lt::torrent_handle const& handle) {
        post_call(*talk, handle, call);
    });
}

bool Engine::connect_peer(std::uint64_t torrent, RawEndpoint const& peer) const {
    auto const endpoint = endpoint_of(peer);
    std::lock_guard const lock(m_mutex);
    return with(torrent, [talk = m_talk.get(), endpoint](lt::torrent_handle const& handle) {
        post_call(*talk, handle, [endpoint](lt::torrent& torrent) { dial(torrent, endpoint); });
    });
}

bool Engine::redial(std::uint64_t torrent) const {
    std::lock_guard const lock(m_mutex);
    return with(torrent, [talk = m_talk.get(), guard = m_guard](lt::torrent_handle const& handle) {
        post_call(*talk, handle, [guard](lt::torrent& torrent) { dial_known(torrent, *guard, max_dialled); });
    });
}

bool Engine::reannounce(std::uint64_t torrent) const {
    std::lock_guard const lock(m_mutex);
    return with(torrent, [](lt::torrent_handle const& handle) {
        handle.force_reannounce(0, -1, lt::torrent_handle::ignore_min_interval);
        handle.force_dht_announce();
        handle.force_lsd_announce();
    });
}

bool Engine::add_trackers(std::uint64_t torrent, rust::Vec<rust::String> const& trackers) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    std::vector<lt::announce_entry> added;
    for (auto const& url : trackers) added.emplace_back(std::string(url));
    state->trackers.insert(state->trackers.end(), added.begin(), added.end());
    if (state->visibility->withheld) return true;
    return with(torrent, [added = std::move(added)](lt::torrent_handle const& handle) {
        for (auto const& tracker : added) handle.add_tracker(tracker);
    });
}

bool Engine::set_withheld(std::uint64_t torrent, bool withheld) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    // From now on no connection is accepted and no request is answered.
    if (state->visibility->withheld.exchange(withheld) == withheld) return true;
    auto trackers = withheld ? std::vector<lt::announce_entry>{} : state->trackers;
    auto const off = withheld ? no_discovery : state->off;
    bool const found = with(torrent, [off, trackers](lt::torrent_handle const& handle) {
        handle.set_flags(off, no_discovery);
        handle.replace_trackers(trackers);
    });
    if (withheld) {
        // Closes the connections, so that blocks requested earlier are not sent any more.
        m_talk->post([talk = m_talk.get(), torrent] {
            auto const internal = talk->torrent(torrent).native_handle();
            if (!internal) return;
            // Copied, because `disconnect` may change the list.
            std::vector<lt::peer_connection*> const peers(internal->begin(), internal->end());
            for (auto* const peer : peers)
                peer->disconnect(lt::errors::make_error_code(lt::errors::torrent_removed),
                                 lt::operation_t::bittorrent);
        });
    }
    return found;
}

bool Engine::save_layers(std::uint64_t torrent, bool export_all) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    state->saves.push_back(export_all);
    return with(torrent, [](lt::torrent_handle const& handle) {
        handle.save_resume_data(lt::torrent_handle::save_info_dict);
    });
}

bool Engine::recover(std::uint64_t torrent) const {
    std::lock_guard const lock(m_mutex);
    return with(torrent, [](lt::torrent_handle const& handle) {
        handle.clear_error();
        handle.unset_flags(lt::torrent_flags::upload_mode);
        handle.resume();
    });
}

std::uint32_t Engine::saves_pending() const {
    std::lock_guard const lock(m_mutex);
    std::size_t pending = 0;
    for (auto const& [id, torrent] : m_torrents) pending += torrent.saves.size();
    return std::uint32_t(pending);
}

void Engine::pause() const {
    std::lock_guard const lock(m_mutex);
    if (m_session) m_session->pause();
}

bool Engine::shutdown(std::int32_t milliseconds) const {
    std::unique_ptr<lt::session> session;
    {
        std::lock_guard const lock(m_mutex);
        m_talk->close();
        session = std::move(m_session);
        m_torrents.clear();
    }
    if (!session) return true;
    // libtorrent may call it while the session is destroyed.
    session->set_alert_notify({});
    // The proxy's destructor waits for trackers and the disk. In its own thread, so that this function waits
    // only until the deadline.
    auto ended = std::make_shared<std::promise<void>>();
    auto over = ended->get_future();
    std::thread([session = std::move(session), ended]() mutable {
        {
            lt::session_proxy const proxy = session->abort();
            session.reset();
        }
        ended->set_value();
    }).detach();
    return over.wait_for(std::chrono::milliseconds(milliseconds)) == std::future_status::ready;
}

}  // namespace silmaril
