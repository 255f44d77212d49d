#include "proof.h"

#include <algorithm>

namespace silmaril {

namespace {

// Most hashes of a layer in one answer: those of a piece of 128 MiB, the longest that libtorrent accepts.
constexpr std::int64_t max_count = 8192;

// The node `index` of the layer with `width` nodes.
constexpr std::int64_t flat(std::int64_t width, std::int64_t index) { return width - 1 + index; }

}  // namespace

std::int64_t HashRange::uncles() const {
    // Proof layers are counted from the layer above the base. Layers inside the subtree of the range are left
    // out.
    return std::max(std::int64_t(0), proofs + 1 - exponent_of(int(count)).value_or(0));
}

// A granule: four blocks of 16 KiB, or a piece if that is shorter.
constexpr int longest_unit = 64 * 1024;

Proof::Proof(lt::file_storage layout)
    : doubt(layout.total_size(), std::min(layout.piece_length(), longest_unit)),
      blocks(layout),
      m_layout(std::move(layout)) {
    m_proved.resize(std::size_t(m_layout.num_pieces()), false);
    for (auto const file : m_layout.file_range()) {
        auto const shape = shape_of(m_layout, file);
        if (!shape) continue;
        int const first = static_cast<int>(m_layout.piece_index_at_file(file));
        File entry{*shape, first, std::vector<std::optional<Hash>>(std::size_t(shape->kept()))};
        entry.nodes[0] = m_layout.root(file);
        m_by_root.emplace(m_layout.root(file), static_cast<int>(file));
        m_files.emplace(static_cast<int>(file), std::move(entry));
    }
}

Proof::File const* Proof::find(Hash const& root) const {
    auto const found = m_by_root.find(root);
    return found == m_by_root.end() ? nullptr : &m_files.at(found->second);
}

void Proof::learn(lt::torrent_info const& info, lt::add_torrent_params const& params) {
    std::lock_guard const lock(m_mutex);
    for (auto& [index, file] : m_files) {
        lt::file_index_t const number{index};
        auto const& shape = file.shape;
        Nodes given;
        auto const layer = info.piece_layer(number);
        if (int(layer.size()) == shape.pieces * int(Hash::size())) {
            for (int piece = 0; piece < shape.pieces; ++piece)
                given.emplace(shape.first_piece() + piece, Hash(layer.data() + piece * Hash::size()));
        } else if (number < params.merkle_trees.end_index() && number < params.merkle_tree_mask.end_index()) {
            auto const& tree = params.merkle_trees[number];
            auto const& mask = params.merkle_tree_mask[number];
            std::size_t next = 0;
            for (int node = 0; node < shape.kept() && node < int(mask.size()) && next < tree.size(); ++node)
                if (mask[std::size_t(node)]) given.emplace(node, tree[next++]);
        }
        learn_tree(file, given);
    }
}

void Proof::learn_tree(File& file, Nodes const& given) {
    if (given.empty() || file.shape.width == 1) return;
    std::vector<std::optional<Hash>> nodes(file.nodes.size());
    for (auto const& [node, hash] : given) nodes[std::size_t(node)] = hash;
    Hash const padding = root_of({}, file.shape.per_piece);
    for (int piece = file.shape.pieces; piece < file.shape.width; ++piece)
        nodes[std::size_t(file.shape.first_piece() + piece)] = padding;
    // First pass, bottom up: compute missing nodes from their children. Second pass, top down: prove nodes.
    for (int node = file.shape.first_piece() - 1; node >= 0; --node) {
        auto& hash = nodes[std::size_t(node)];
        auto const& left = nodes[std::size_t(2 * node + 1)];
        auto const& right = nodes[std::size_t(2 * node + 2)];
        if (!hash && left && right) hash = parent_of(*left, *right);
    }
    for (int node = 0; node < file.shape.first_piece(); ++node) {
        auto const& proved = file.nodes[std::size_t(node)];
        auto const& left = nodes[std::size_t(2 * node + 1)];
        auto const& right = nodes[std::size_t(2 * node + 2)];
        if (!proved || !left || !right || parent_of(*left, *right) != *proved) continue;
        file.nodes[std::size_t(2 * node + 1)] = left;
        file.nodes[std::size_t(2 * node + 2)] = right;
    }
}

void Proof::set_proved(lt::typed_bitfield<lt::piece_index_t> const& pieces) {
    std::lock_guard const lock(m_mutex);
    for (std::size_t piece = 0; piece < m_proved.size(); ++piece)
        m_proved[piece] = pieces.get_bit(lt::piece_index_t(int(piece)));
}

bool Proof::fits(HashRange const& range) const {
    std::lock_guard const lock(m_mutex);
    auto const* const file = find(range.root);
    if (!file || range.count <= 0 || range.count > max_count) return false;
    auto const height = exponent_of(int(range.count));
    auto const layers = *exponent_of(file->shape.leaves);  // heights are 0 to this
    if (!height || range.base < 0 || range.base > layers || range.index < 0 || range.proofs < 0) return false;
    std::int64_t const width = std::int64_t(file->shape.leaves) >> range.base;
    return range.index % range.count == 0 && range.index + range.count <= width && range.proofs <= layers &&
           range.base + *height + range.uncles() <= layers;
}

bool Proof::learn(HashRange const& range, lt::span<Hash const> hashes, std::vector<int>& finished) {
    if (!fits(range) || std::int64_t(hashes.size()) != range.count + range.uncles()) return false;
    std::vector<int> pieces;
    bool const proved = learn(range, hashes, finished, pieces);
    // Without the lock: the disk back end takes locks that it holds when it uses the proof.
    if (granules_came)
        for (int const piece : pieces) granules_came(piece, granules_in(piece, hashes));
    return proved;
}

bool Proof::learn(HashRange const& range, lt::span<Hash const> hashes, std::vector<int>& finished,
                  std::vector<int>& with_granules) {
    std::lock_guard const lock(m_mutex);
    auto const [first, last] = m_by_root.equal_range(range.root);
    auto const& shape = m_files.at(first->second).shape;

    Nodes nodes;  // nodes of the answer, by flat index
    std::int64_t width = std::int64_t(shape.leaves) >> range.base;
    std::int64_t index = range.index;
    std::vector<Hash> layer(hashes.begin(), hashes.begin() + std::ptrdiff_t(range.count));
    auto uncles = hashes.subspan(std::ptrdiff_t(range.count));
    auto const keep = [&](std::int64_t at, Hash const& hash) {
        if (width <= shape.width) nodes.emplace(flat(width, at), hash);
    };
    for (;;) {
        for (std::size_t i = 0; i < layer.size(); ++i) keep(index + std::int64_t(i), layer[i]);
        if (layer.size() == 1) {
            if (uncles.empty()) break;
            // The next hash of the proof is the sibling of the computed node.
            auto const sibling = uncles.front();
            uncles = uncles.subspan(1);
            keep(index ^ 1, sibling);
            layer =
                index % 2 == 0 ? std::vector<Hash>{layer[0], sibling} : std::vector<Hash>{sibling, layer[0]};
            index &= ~std::int64_t(1);
        }
        for (std::size_t i = 0; i < layer.size() / 2; ++i)
            layer[i] = parent_of(layer[2 * i], layer[2 * i + 1]);
        layer.resize(layer.size() / 2);
        width /= 2;
        index /= 2;
    }
    if (width > shape.width) return false;
    bool proved = false;
    for (auto entry = first; entry != last; ++entry) {
        auto& file = m_files.at(entry->second);
        auto const& anchor = file.nodes[std::size_t(flat(width, index))];
        if (file.shape.leaves != shape.leaves || !anchor || *anchor != layer[0]) continue;
        for (auto const& [node, hash] : nodes) file.nodes[std::size_t(node)] = hash;
        if (range.base == 0) learn_blocks(file, range, hashes.first(std::ptrdiff_t(range.count)));
        int const granules = file.shape.per_piece / per_granule;
        if (range.base == granule_height && granules > 1 && range.count == granules)
            with_granules.push_back(file.first_piece + int(range.index / granules));
        judge_waiting(file, finished);
        proved = true;
    }
    return proved;
}

void Proof::learn_blocks(File const& file, HashRange const& range, lt::span<Hash const> hashes) {
    int const per_piece = file.shape.per_piece;
    int const end = std::min(int(range.index + range.count), file.shape.blocks);
    for (int block = int(range.index); block < end;) {
        int const first = block % per_piece;
        int const count = std::min(per_piece - first, end - block);
        blocks.learn(file.first_piece + block / per_piece, first,
                     hashes.subspan(block - std::ptrdiff_t(range.index), count));
        block += count;
    }
}

std::vector<Hash> Proof::granules_in(int piece, lt::span<Hash const> hashes) const {
    int const count = (blocks.blocks_in(piece) + per_granule - 1) / per_granule;
    return {hashes.begin(), hashes.begin() + count};
}

void Proof::judge_waiting(File const& file, std::vector<int>& finished) {
    auto waiting = m_waiting.lower_bound(file.first_piece);
    while (waiting != m_waiting.end() && waiting->first < file.first_piece + file.shape.pieces) {
        int const piece = waiting->first;
        auto const& hash = file.nodes[std::size_t(file.shape.first_piece() + piece - file.first_piece)];
        if (!hash) {
            ++waiting;
            continue;
        }
        if (*hash == waiting->second) {
            m_proved[std::size_t(piece)] = true;
            if (m_passed.erase(piece) > 0) finished.push_back(piece);
        }
        waiting = m_waiting.erase(waiting);
    }
}

// Proves the hashes of all pieces below the lowest proved node above `piece`, if all of them are present and
// give that node. Returns whether it did.
bool Proof::climb(File& file, int piece) {
    auto const& shape = file.shape;
    std::int64_t node = shape.first_piece() + piece - file.first_piece;
    std::int64_t first = piece - file.first_piece;
    std::int64_t count = 1;
    while (node > 0 && !file.nodes[std::size_t(node)]) {
        first -= node % 2 == 0 ? count : 0;
        count *= 2;
        node = (node - 1) / 2;
    }
    Hash const padding = root_of({}, shape.per_piece);
    std::vector<Hash> layer;
    for (auto index = first; index < first + count; ++index) {
        auto const& known = file.nodes[std::size_t(shape.first_piece() + index)];
        auto const waiting = m_waiting.find(file.first_piece + int(index));
        if (known)
            layer.push_back(*known);
        else if (index >= shape.pieces)
            layer.push_back(padding);
        else if (waiting != m_waiting.end())
            layer.push_back(waiting->second);
        else
            return false;
    }
    Nodes nodes;
    for (auto start = flat(shape.width, first); layer.size() > 1; start = (start - 1) / 2) {
        for (std::size_t i = 0; i < layer.size(); ++i) nodes.emplace(start + std::int64_t(i), layer[i]);
        for (std::size_t i = 0; i < layer.size() / 2; ++i)
            layer[i] = parent_of(layer[2 * i], layer[2 * i + 1]);
        layer.resize(layer.size() / 2);
    }
    if (layer[0] != *file.nodes[std::size_t(node)]) return false;
    for (auto const& [at, hash] : nodes) file.nodes[std::size_t(at)] = hash;
    return true;
}

Proof::Verdict Proof::judge(int piece, lt::span<Hash const> blocks, std::vector<int>& finished) {
    auto const number = m_layout.file_index_at_piece(lt::piece_index_t(piece));
    std::lock_guard const lock(m_mutex);
    auto const found = m_files.find(static_cast<int>(number));
    if (found == m_files.end()) return Verdict::wrong;
    auto& file = found->second;
    m_proved[std::size_t(piece)] = false;
    m_waiting.erase(piece);
    if (int(blocks.size()) > file.shape.per_piece) return Verdict::wrong;
    auto const root = root_of(blocks, file.shape.per_piece);
    auto const& hash = file.nodes[std::size_t(file.shape.first_piece() + piece - file.first_piece)];
    if (!hash) {
        m_waiting[piece] = root;
        if (climb(file, piece)) judge_waiting(file, finished);
        return m_proved[std::size_t(piece)] ? Verdict::right : Verdict::unknown;
    }
    if (*hash != root) return Verdict::wrong;
    m_proved[std::size_t(piece)] = true;
    return Verdict::right;
}

Proof::Verdict Proof::compare(int piece, lt::span<Hash const> blocks) const {
    auto const number = m_layout.file_index_at_piece(lt::piece_index_t(piece));
    std::lock_guard const lock(m_mutex);
    auto const found = m_files.find(static_cast<int>(number));
    if (found == m_files.end()) return Verdict::unknown;
    auto const& file = found->second;
    if (int(blocks.size()) > file.shape.per_piece) return Verdict::wrong;
    auto const& hash = file.nodes[std::size_t(file.shape.first_piece() + piece - file.first_piece)];
    if (!hash) return Verdict::unknown;
    return *hash == root_of(blocks, file.shape.per_piece) ? Verdict::right : Verdict::wrong;
}

void Proof::asked(lt::address const& peer, std::int64_t piece, std::int64_t start, std::int64_t length) {
    auto const piece_length = std::int64_t(m_layout.piece_length());
    if (piece >= m_layout.num_pieces() || start + length > piece_length || length <= 0) return;
    auto const from = piece * piece_length + start;
    auto const to = std::min(from + length, m_layout.total_size());
    doubt.requested(peer, piece, int(start / lt::default_block_size), from, to, Doubt::Clock::now());
}

bool Proof::pass(int piece) {
    if (blocks.is_barred(piece)) return false;
    std::lock_guard const lock(m_mutex);
    if (piece < 0 || std::size_t(piece) >= m_proved.size()) return false;
    if (m_proved[std::size_t(piece)]) return true;
    m_passed.insert(piece);
    return false;
}

bool Proof::proved(int piece) const {
    std::lock_guard const lock(m_mutex);
    return piece >= 0 && std::size_t(piece) < m_proved.size() && m_proved[std::size_t(piece)];
}

bool Proof::keeps(int piece) const {
    std::lock_guard const lock(m_mutex);
    return piece >= 0 && std::size_t(piece) < m_proved.size() &&
           (m_proved[std::size_t(piece)] || m_waiting.count(piece) > 0);
}

bool Proof::waits() const {
    std::lock_guard const lock(m_mutex);
    return !m_waiting.empty();
}

void Proof::forget(int piece) {
    std::lock_guard const lock(m_mutex);
    m_waiting.erase(piece);
    m_passed.erase(piece);
    if (piece >= 0 && std::size_t(piece) < m_proved.size()) m_proved[std::size_t(piece)] = false;
}

}  // namespace silmaril
