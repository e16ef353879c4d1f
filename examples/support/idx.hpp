// Reads MNIST's files: IDX images (idx3-ubyte) and labels (idx1-ubyte), plain or gzipped. The
// format is four magic bytes, big-endian 32-bit counts, then one byte per value
// (http://yann.lecun.com/exdb/mnist).
#pragma once

#include "digit_set.hpp"
#include "input_file.hpp"

#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

namespace examples {

/// The largest accepted IDX file, in bytes: a quarter of a gibibyte. MNIST has 47 million.
inline constexpr std::uint64_t kMaxIdxBytes = std::uint64_t{1} << 28;

namespace detail {

/// Reads a file's bytes in order, and decompresses gzip. Never holds more than the caller asks for.
class IdxFile {
 public:
  explicit IdxFile(const std::filesystem::path& path)
      : name_(path.string()), stored_bytes_(input_file_size(path)) {
    errno = 0;
    file_.reset(gzopen(name_.c_str(), "rb"));
    if (!file_) throw lora::IoError(name_ + ": cannot be opened: " + std::strerror(errno));
  }

  /// Reads the file's field `what` into `bytes`.
  void read(std::span<unsigned char> bytes, const std::string& what) {
    const int got = gzread(file_.get(), bytes.data(), static_cast<unsigned>(bytes.size()));
    if (got == static_cast<int>(bytes.size())) return;
    fail_if_broken(got, what);
    throw lora::FormatError(name_ + ": the file ends inside " + what + ", expected " +
                            std::to_string(bytes.size()) + " bytes and found " +
                            std::to_string(got));
  }

  std::uint32_t read_u32(const std::string& what) {
    std::array<unsigned char, 4> b{};
    read(b, what);
    return (std::uint32_t{b[0]} << 24) | (std::uint32_t{b[1]} << 16) | (std::uint32_t{b[2]} << 8) |
           b[3];
  }

  /// Throws if the file cannot contain the `body` bytes that the header promises, before anything
  /// is allocated for them.
  void expect_body(std::uint64_t header, std::uint64_t body, const std::string& what) const {
    // Deflate expands one byte to at most 1032.
    const bool fits = plain() ? stored_bytes_ == header + body : body / 1032 <= stored_bytes_;
    if (fits) return;
    throw lora::FormatError(
        name_ + ": the header promises " + what + " (" + std::to_string(body) +
        " bytes), but the file has " + std::to_string(stored_bytes_) + " bytes" +
        (plain() ? ", expected " + std::to_string(header + body) : " compressed"));
  }

  /// Throws if anything follows. Also makes zlib verify the checksum at the end of a gzipped file.
  void expect_end(const std::string& what) {
    unsigned char extra = 0;
    const int got = gzread(file_.get(), &extra, 1);
    if (got == 0 && error_code() == Z_OK) return;
    fail_if_broken(got, "the end after " + what);
    throw lora::FormatError(name_ + ": more bytes follow " + what +
                            ", expected the end of the file");
  }

  const std::string& name() const { return name_; }

 private:
  struct Close {
    void operator()(gzFile_s* file) const { gzclose(file); }
  };

  bool plain() const { return gzdirect(file_.get()) != 0; }
  int error_code() const {
    int code = Z_OK;
    gzerror(file_.get(), &code);
    return code;
  }
  void fail_if_broken(int got, const std::string& what) const {
    int code = Z_OK;
    const std::string reason = gzerror(file_.get(), &code);
    if (code == Z_ERRNO) throw lora::IoError(name_ + ": cannot be read at " + what + ": " + reason);
    if (got < 0 || code < 0) {
      throw lora::FormatError(name_ + ": the gzip data are damaged at " + what + ": " + reason);
    }
  }

  std::string name_;
  std::uintmax_t stored_bytes_ = 0;
  std::unique_ptr<gzFile_s, Close> file_;
};

inline std::uint32_t read_idx_magic(IdxFile& file, std::uint32_t expected, const char* kind) {
  const std::uint32_t magic = file.read_u32("magic");
  if (magic == expected) return magic;
  throw lora::FormatError(file.name() + ": magic is " + std::to_string(magic) + ", expected " +
                          std::to_string(expected) + " (" + kind + ")");
}

inline std::uint32_t read_idx_count(IdxFile& file, const char* what, std::uint32_t most) {
  const std::uint32_t count = file.read_u32(what);
  if (count >= 1 && count <= most) return count;
  throw lora::FormatError(file.name() + ": " + what + " is " + std::to_string(count) +
                          ", expected 1 to " + std::to_string(most));
}

}  // namespace detail

/// Reads the images of an idx3-ubyte file, with bytes 0..255 scaled to [0, 1] and without labels.
/// Throws: lora::IoError if the file cannot be read; lora::FormatError that names file and field if
///   magic, counts, length or gzip checksum are wrong.
/// Allocates: one image besides the result, whatever the file says.
inline DigitSet read_idx_images(const std::filesystem::path& path) {
  detail::IdxFile file(path);
  detail::read_idx_magic(file, 0x803, "idx3-ubyte images");
  const std::uint32_t count = detail::read_idx_count(file, "number of images", 100'000'000);
  const std::uint32_t height = detail::read_idx_count(file, "number of rows", 1024);
  const std::uint32_t width = detail::read_idx_count(file, "number of columns", 1024);
  const std::uint64_t image_bytes = std::uint64_t{height} * width, body = image_bytes * count;
  const std::string what = std::to_string(count) + " images of " + std::to_string(height) + " x " +
                           std::to_string(width) + " pixels";
  if (body > kMaxIdxBytes) {
    throw lora::FormatError(file.name() + ": the header promises " + what + ", expected at most " +
                            std::to_string(kMaxIdxBytes) + " bytes");
  }
  file.expect_body(16, body, what);

  DigitSet set{
      {}, {}, static_cast<Index>(height), static_cast<Index>(width), path.filename().string()};
  set.images.resize(static_cast<Index>(count), static_cast<Index>(image_bytes));
  std::vector<unsigned char> bytes(static_cast<std::size_t>(image_bytes));
  for (Index n = 0; n < set.size(); ++n) {
    file.read(bytes, "image " + std::to_string(n) + " of " + std::to_string(count));
    float* row = set.images.row(n).data();
    for (std::size_t i = 0; i < bytes.size(); ++i) row[i] = static_cast<float>(bytes[i]) / 255.0f;
  }
  file.expect_end("image " + std::to_string(count - 1));
  return set;
}

/// Reads the labels 0..9 of an idx1-ubyte file.
/// Throws: as read_idx_images(), also for a label above 9.
inline std::vector<std::int64_t> read_idx_labels(const std::filesystem::path& path) {
  detail::IdxFile file(path);
  detail::read_idx_magic(file, 0x801, "idx1-ubyte labels");
  const std::uint32_t count = detail::read_idx_count(file, "number of labels", 100'000'000);
  file.expect_body(8, count, std::to_string(count) + " labels");
  std::vector<unsigned char> bytes(count);
  file.read(bytes, "the labels");
  file.expect_end("label " + std::to_string(count - 1));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] > 9) {
      throw lora::FormatError(file.name() + ": label " + std::to_string(i) + " is " +
                              std::to_string(bytes[i]) + ", expected 0 to 9");
    }
  }
  return {bytes.begin(), bytes.end()};
}

/// Reads the digits of a pair of MNIST files.
/// Throws: as the two readers; lora::FormatError if the numbers of images and labels differ.
inline DigitSet read_mnist(const std::filesystem::path& images,
                           const std::filesystem::path& labels) {
  DigitSet set = read_idx_images(images);
  set.labels = read_idx_labels(labels);
  if (static_cast<Index>(set.labels.size()) != set.size()) {
    throw lora::FormatError(labels.string() + ": number of labels is " +
                            std::to_string(set.labels.size()) + ", expected " +
                            std::to_string(set.size()) + ", the number of images in " +
                            images.string());
  }
  return set;
}

}  // namespace examples
