#include "cache/snapshot_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "cache/block_hash.h"
#include "core/checksum.h"
#include "core/error.h"

namespace quarrel {
namespace {

constexpr std::string_view kMagic = "QUARRKV\n";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kPreludeBytes = 16;
constexpr std::size_t kChecksumBytes = 8;
constexpr std::size_t kMaxHeaderBytes = std::size_t{1} << 20;

// A text block: parent, length, mask of groups that hold it, chained hash, tokens.
std::uint64_t record_bytes(std::size_t block_size) { return 20 + 4 * std::uint64_t{block_size}; }

BlockHash root_hash(const SnapshotIdentity& identity) {
  BlockHash hash = 0;
  for (const auto& [name, value] : identity)
    for (const std::string& text : {name, value})
      hash = xxh64(std::as_bytes(std::span(text)), hash);
  return mix_bits(hash);
}

class Encoder {
 public:
  template <class T>
  void put(T value) {
    const auto bits = static_cast<std::uint64_t>(value);
    for (std::size_t i = 0; i < sizeof(T); ++i)
      bytes_.push_back(static_cast<std::byte>(bits >> 8 * i));
  }
  void put_text(std::string_view text) {
    put(static_cast<std::uint32_t>(text.size()));
    put_raw(text);
  }
  void put_raw(std::string_view text) {
    const auto raw = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
  }
  std::uint64_t put_checksum(std::uint64_t seed = 0) {
    const std::uint64_t sum = xxh64(bytes_, seed);
    put(sum);
    return sum;
  }
  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

// Throws nothing by itself: whoever reads beyond the end gets zeros and ok() is false.
class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  T get() {
    std::uint64_t bits = 0;
    const auto raw = take(sizeof(T));
    for (std::size_t i = 0; i < raw.size(); ++i)
      bits |= std::to_integer<std::uint64_t>(raw[i]) << 8 * i;
    return static_cast<T>(bits);
  }
  std::string get_text() {
    const auto raw = take(get<std::uint32_t>());
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && bytes_.empty(); }

 private:
  std::span<const std::byte> take(std::size_t n) {
    if (n > bytes_.size()) {
      ok_ = false;
      return {};
    }
    const auto taken = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return taken;
  }
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

struct Header {
  std::uint64_t n_bytes;  // of the header itself
  std::uint64_t n_text_blocks;
  std::uint64_t n_blocks;
  std::uint64_t checksum;
};

[[noreturn]] void damaged(const ByteSource& source, const std::string& where) {
  throw SnapshotError(source.name() + " is damaged (" + where +
                      "); nothing was taken from it: delete it and save again.");
}

std::string_view kind_name(SnapshotKind kind) {
  return kind == SnapshotKind::Sequence ? "one saved sequence" : "a saved prefix cache";
}

// The last eight bytes of a section are its checksum.
std::uint64_t checked(const ByteSource& source, std::span<const std::byte> section,
                      const std::string& where, std::uint64_t seed = 0) {
  const auto body = section.first(section.size() - kChecksumBytes);
  const auto sum = Decoder(section.last(kChecksumBytes)).get<std::uint64_t>();
  if (xxh64(body, seed) != sum) damaged(source, where + ": the checksum does not agree");
  return sum;
}

// Size of the header. Checks what must be known before anything else can be understood.
std::uint32_t read_prelude(const ByteSource& source) {
  std::array<std::byte, kPreludeBytes> prelude{};
  const std::uint64_t n = std::min<std::uint64_t>(source.size(), prelude.size());
  source.read(0, {prelude.data(), n});
  if (std::memcmp(prelude.data(), kMagic.data(), std::min(n, kMagic.size())) != 0 || n == 0)
    throw SnapshotError(source.name() +
                        " is no saved KV cache; give a file that was saved before.");
  if (n < prelude.size()) damaged(source, "header: the file was cut short");
  Decoder decoder(std::span<const std::byte>(prelude).subspan(kMagic.size()));
  const auto version = decoder.get<std::uint32_t>();
  if (version != kVersion)
    throw SnapshotError(source.name() + " has format version " + std::to_string(version) +
                        " but this engine reads version " + std::to_string(kVersion) +
                        "; save it again with this engine.");
  return decoder.get<std::uint32_t>();
}

void check_identity(const ByteSource& source, const SnapshotIdentity& ours,
                    const SnapshotIdentity& theirs) {
  for (std::size_t i = 0; i < std::max(ours.size(), theirs.size()); ++i) {
    if (i >= ours.size() || i >= theirs.size() || ours[i].first != theirs[i].first)
      throw SnapshotError(source.name() +
                          " was saved by another version of this engine; save it again.");
    if (ours[i].second != theirs[i].second)
      throw SnapshotError(source.name() + " was saved with " + ours[i].first + " " +
                          theirs[i].second + " but this engine has " + ours[i].second +
                          "; use the same " + ours[i].first + " or save it again.");
  }
}

SnapshotIdentity read_identity(Decoder& decoder, std::uint32_t n) {
  SnapshotIdentity identity;
  for (std::uint32_t i = 0; i < n && decoder.ok(); ++i) {
    std::string name = decoder.get_text();
    identity.emplace_back(std::move(name), decoder.get_text());
  }
  return identity;
}

Header read_header(const ByteSource& source, const SnapshotShape& shape) {
  const std::uint32_t n = read_prelude(source);
  if (n < kPreludeBytes + kChecksumBytes ||
      n > std::min<std::uint64_t>(kMaxHeaderBytes, source.size()))
    damaged(source, "header: it says it has " + std::to_string(n) + " bytes");
  std::vector<std::byte> bytes(n);
  source.read(0, bytes);
  Header header{n, 0, 0, checked(source, bytes, "header")};
  Decoder decoder(
      std::span<const std::byte>(bytes).subspan(kPreludeBytes, n - kPreludeBytes - kChecksumBytes));
  const auto kind = decoder.get<std::uint32_t>();
  const auto block_size = decoder.get<std::uint32_t>();
  const auto n_groups = decoder.get<std::uint32_t>();
  const auto n_identity = decoder.get<std::uint32_t>();
  header.n_text_blocks = decoder.get<std::uint64_t>();
  header.n_blocks = decoder.get<std::uint64_t>();
  const auto file_bytes = decoder.get<std::uint64_t>();
  std::vector<std::size_t> block_bytes;
  for (std::uint32_t g = 0; g < n_groups && decoder.ok(); ++g)
    block_bytes.push_back(decoder.get<std::uint64_t>());
  const auto identity = read_identity(decoder, n_identity);
  if (!decoder.at_end()) damaged(source, "header: its parts do not fill it");
  if (file_bytes != source.size())
    damaged(source, "it has " + std::to_string(source.size()) + " of " +
                        std::to_string(file_bytes) + " bytes");
  if (kind != static_cast<std::uint32_t>(shape.kind))
    throw SnapshotError(source.name() + " does not hold " + std::string(kind_name(shape.kind)) +
                        "; give a file that does.");
  check_identity(source, shape.identity, identity);
  if (block_size != shape.block_size || block_bytes != shape.block_bytes)
    throw SnapshotError(source.name() + " was saved with blocks of another shape; save it again.");
  return header;
}

// Blocks of a text, from bytes whose checksum agrees; a liar may still have written them.
class TextsReader {
 public:
  TextsReader(const ByteSource& source, const SnapshotShape& shape)
      : source_(source),
        is_chain_(shape.kind == SnapshotKind::Sequence),
        root_(root_hash(shape.identity)),
        texts_{shape.block_size, shape.block_bytes.size(), {}, {}, {}, {}} {}

  void read_one(Decoder& decoder) {
    const auto at = static_cast<std::int32_t>(texts_.size());
    const auto parent = decoder.get<std::int32_t>();
    const auto length = decoder.get<std::uint32_t>();
    const auto held = decoder.get<std::uint32_t>();
    const auto hash = decoder.get<BlockHash>();
    std::vector<TokenId> tokens(texts_.block_size);
    for (TokenId& token : tokens) token = decoder.get<TokenId>();
    const bool linked = parent >= CachedTexts::kNoParent && parent < at &&
                        (parent == CachedTexts::kNoParent || is_full(parent));
    if (!linked || (is_chain_ && parent != at - 1))
      damaged(source_, "texts: a block follows none of those before it");
    if (length == 0 || length > texts_.block_size || held >> texts_.n_groups != 0)
      damaged(source_, "texts: a block has an impossible length or group");
    const BlockHash before =
        parent == CachedTexts::kNoParent ? root_ : hashes_[static_cast<std::size_t>(parent)];
    const auto text = std::span(tokens).first(length);
    if (chain_hash(before, text) != hash)
      damaged(source_, "texts: a block has another text's hash");
    hashes_.push_back(hash);
    texts_.add(parent, text);
    for (std::size_t g = 0; g < texts_.n_groups; ++g)
      if (held >> g & 1) texts_.set_block(texts_.size() - 1, g, n_blocks_++);
  }

  std::size_t n_blocks() const { return static_cast<std::size_t>(n_blocks_); }
  CachedTexts take() { return std::move(texts_); }

 private:
  bool is_full(std::int32_t at) const {
    return texts_.lengths[static_cast<std::size_t>(at)] == texts_.block_size;
  }

  const ByteSource& source_;
  const bool is_chain_;
  const BlockHash root_;
  CachedTexts texts_;
  std::vector<BlockHash> hashes_;
  BlockId n_blocks_ = 0;
};

Encoder encode_header(const SnapshotShape& shape, const CachedTexts& texts,
                      std::uint64_t data_bytes) {
  Encoder body;
  body.put(static_cast<std::uint32_t>(shape.kind));
  body.put(static_cast<std::uint32_t>(shape.block_size));
  body.put(static_cast<std::uint32_t>(shape.block_bytes.size()));
  body.put(static_cast<std::uint32_t>(shape.identity.size()));
  body.put(std::uint64_t{texts.size()});
  body.put(std::uint64_t{texts.n_held_blocks()});
  const std::size_t at_file_bytes = body.size();
  body.put(std::uint64_t{0});
  for (const std::size_t n : shape.block_bytes) body.put(std::uint64_t{n});
  for (const auto& [name, value] : shape.identity) body.put_text(name), body.put_text(value);

  const std::uint64_t n = kPreludeBytes + body.size() + kChecksumBytes;
  const std::uint64_t file_bytes =
      n + texts.size() * record_bytes(shape.block_size) + kChecksumBytes + data_bytes;
  Encoder header;
  header.put_raw(kMagic);
  header.put(kVersion);
  header.put(static_cast<std::uint32_t>(n));
  Encoder size;
  size.put(file_bytes);
  std::ranges::copy(size.bytes(),
                    body.bytes().begin() + static_cast<std::ptrdiff_t>(at_file_bytes));
  header.bytes().insert(header.bytes().end(), body.bytes().begin(), body.bytes().end());
  return header;
}

Encoder encode_texts(const SnapshotShape& shape, const CachedTexts& texts) {
  Encoder encoder;
  std::vector<BlockHash> hashes;
  for (std::size_t at = 0; at < texts.size(); ++at) {
    const std::int32_t parent = texts.parents[at];
    const BlockHash before = parent == CachedTexts::kNoParent
                                 ? root_hash(shape.identity)
                                 : hashes[static_cast<std::size_t>(parent)];
    hashes.push_back(chain_hash(before, texts.text(at)));
    std::uint32_t held = 0;
    for (std::size_t g = 0; g < texts.n_groups; ++g)
      held |= static_cast<std::uint32_t>(texts.block(at, g) != kNoBlock) << g;
    encoder.put(parent);
    encoder.put(texts.lengths[at]);
    encoder.put(held);
    encoder.put(hashes.back());
    for (std::size_t i = 0; i < texts.block_size; ++i)
      encoder.put(texts.tokens[at * texts.block_size + i]);
  }
  return encoder;
}

std::uint64_t block_seed(std::uint64_t file_seed, std::size_t number) {
  return mix_bits(file_seed + number);
}

}  // namespace

std::uint64_t write_snapshot(const ByteSink& sink, const SnapshotShape& shape,
                             const CachedTexts& texts, const BlockReader& read_block) {
  std::uint64_t data_bytes = 0;
  for (std::size_t at = 0; at < texts.size(); ++at)
    for (std::size_t g = 0; g < texts.n_groups; ++g)
      if (texts.block(at, g) != kNoBlock) data_bytes += shape.block_bytes[g] + kChecksumBytes;
  Encoder header = encode_header(shape, texts, data_bytes);
  Encoder table = encode_texts(shape, texts);
  const std::uint64_t seed = header.put_checksum() ^ table.put_checksum();
  sink(header.bytes());
  sink(table.bytes());
  std::size_t number = 0;
  for (std::size_t at = 0; at < texts.size(); ++at)
    for (std::size_t g = 0; g < texts.n_groups; ++g) {
      if (texts.block(at, g) == kNoBlock) continue;
      Encoder block;
      block.bytes().reserve(shape.block_bytes[g] + kChecksumBytes);
      block.bytes().resize(shape.block_bytes[g]);
      read_block(at, g, block.bytes());
      block.put_checksum(block_seed(seed, number++));
      sink(block.bytes());
    }
  return header.size() + table.size() + data_bytes;
}

SnapshotReader::SnapshotReader(std::unique_ptr<ByteSource> source, const SnapshotShape& shape)
    : source_(std::move(source)), block_bytes_(shape.block_bytes) {
  const Header header = read_header(*source_, shape);
  const std::uint64_t record = record_bytes(shape.block_size);
  const std::uint64_t left = source_->size() - header.n_bytes;
  if (left < kChecksumBytes || header.n_text_blocks > (left - kChecksumBytes) / record)
    damaged(*source_, "texts: more of them than bytes");
  std::vector<std::byte> bytes(header.n_text_blocks * record + kChecksumBytes);
  source_->read(header.n_bytes, bytes);
  seed_ = header.checksum ^ checked(*source_, bytes, "texts");
  TextsReader reader(*source_, shape);
  Decoder decoder(bytes);
  for (std::uint64_t i = 0; i < header.n_text_blocks; ++i) reader.read_one(decoder);
  if (reader.n_blocks() != header.n_blocks)
    damaged(*source_, "texts: they do not name every block");
  texts_ = reader.take();
  locate_blocks(header.n_bytes + bytes.size());
}

void SnapshotReader::locate_blocks(std::uint64_t first_offset) {
  offsets_.push_back(first_offset);
  for (std::size_t at = 0; at < texts_.size(); ++at)
    for (std::size_t g = 0; g < texts_.n_groups; ++g) {
      if (texts_.block(at, g) == kNoBlock) continue;
      const std::uint64_t n = block_bytes_[g] + kChecksumBytes;
      if (n > source_->size() - offsets_.back()) damaged(*source_, "blocks: some are missing");
      groups_.push_back(static_cast<std::uint8_t>(g));
      offsets_.push_back(offsets_.back() + n);
    }
  if (offsets_.back() != source_->size()) damaged(*source_, "blocks: bytes are left over");
}

void SnapshotReader::read_block(BlockId number, std::span<std::byte> out) const {
  const auto i = static_cast<std::size_t>(number);
  std::vector<std::byte> bytes(out.size() + kChecksumBytes);
  source_->read(offsets_[i], bytes);
  checked(*source_, bytes, "block " + std::to_string(number), block_seed(seed_, i));
  std::ranges::copy(std::span(bytes).first(out.size()), out.begin());
}

void SnapshotReader::check_blocks() const {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < n_blocks(); ++i) {
    bytes.resize(block_bytes_[groups_[i]]);
    read_block(static_cast<BlockId>(i), bytes);
  }
}

}  // namespace quarrel
