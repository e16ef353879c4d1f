// Shows the progress of long work on standard error: a bar on a terminal, plain lines in a log, or
// nothing.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/core/types.hpp>

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>

namespace tools {

using lora::Index;

/// automatic: bar on a terminal, otherwise lines.
enum class ProgressMode { automatic, bar, lines, quiet };

struct ProgressOptions {
  ProgressMode mode = ProgressMode::automatic;
  double bar_seconds = 0.1;                          ///< minimum time between redraws of a bar
  double line_seconds = 5.0;                         ///< minimum time between lines
  int columns = 0;                                   ///< width of the terminal; 0: ask it
  std::function<void(std::string_view)> write = {};  ///< writes text; empty: to standard error
  std::function<double()> clock = {};                ///< in seconds; empty: the steady clock
};

/// Shows how far a task of `total` steps is (0: unknown) and how long it will take. A task that
/// ends before the first redraw shows nothing. In lines mode, writes no control characters but
/// newlines.
/// Threads: for one thread only.
class Progress {
 public:
  Progress(std::string label, Index total, ProgressOptions options = {})
      : label_(printable(label)), total_(std::max<Index>(total, 0)), options_(std::move(options)) {
    if (options_.mode == ProgressMode::automatic) {
      const char* term = std::getenv("TERM");
      const bool dumb = term == nullptr || std::string_view(term) == "dumb";
      const bool terminal = isatty(STDERR_FILENO) != 0 && !dumb;
      options_.mode = terminal ? ProgressMode::bar : ProgressMode::lines;
    }
    if (!options_.write) {
      options_.write = [](std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stderr);
        std::fflush(stderr);
      };
    }
    if (!options_.clock) {
      options_.clock = [] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
            .count();
      };
    }
    start_ = last_ = options_.clock();
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Ends the line, so that a following error message starts on its own line.
  ~Progress() {
    try {
      close();
    } catch (...) {
      // Progress output is not worth ending the program for.
    }
  }

  /// Reports that `done` steps are done. `note` is a short remark, such as "loss 0.231".
  void update(Index done, std::string_view note = {}) {
    done_ = std::max<Index>(done, 0);
    if (options_.mode == ProgressMode::quiet || finished_) return;
    const double now = options_.clock();
    const bool bar = options_.mode == ProgressMode::bar;
    if (note != note_) note_ = note;
    if (now - last_ < (bar ? options_.bar_seconds : options_.line_seconds)) return;
    last_ = now;
    show(now);
  }

  void advance(Index steps = 1, std::string_view note = {}) { update(done_ + steps, note); }

  /// Reports the end of the task, at whatever step it stopped. Shows the last state and the time
  /// taken if anything was shown before or the task took long enough for a line. Later calls do
  /// nothing.
  void finish(std::string_view note = {}) {
    if (finished_ || options_.mode == ProgressMode::quiet) return;
    if (!note.empty()) note_ = note;
    finished_ = true;
    const double now = options_.clock();
    if (shown_ || now - start_ >= options_.line_seconds) show(now);
    close();
  }

 private:
  static std::string printable(std::string_view text) {
    std::string out(text);
    for (char& ch : out) {
      if (static_cast<unsigned char>(ch) < 32 || ch == 127) ch = ' ';
    }
    return out;
  }

  // The number of columns of UTF-8 text: its bytes that do not continue a character.
  static std::size_t columns_of(std::string_view text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char ch) { return (ch & 0xC0) != 0x80; }));
  }

  static void cut(std::string& text, std::size_t columns) {
    std::size_t seen = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if ((text[i] & 0xC0) != 0x80 && seen++ == columns) return text.resize(i);
    }
  }

  std::size_t terminal_columns() const {
    if (options_.columns > 0) return static_cast<std::size_t>(options_.columns);
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : 80;
  }

  double share() const {
    return total_ > 0 ? std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_))
                      : 0.0;
  }

  // " 42%  1260/3000  0:12 left  loss 0.231", or at the end the time taken. Columns keep their
  // place.
  std::string state(double now) const {
    std::string text;
    if (total_ > 0) {
      const int percent = static_cast<int>(100.0 * share());
      const std::string all = std::to_string(total_), done = std::to_string(done_);
      text = (percent < 10    ? "  "
              : percent < 100 ? " "
                              : "") +
             std::to_string(percent) + "%  " +
             std::string(all.size() > done.size() ? all.size() - done.size() : 0, ' ') + done +
             "/" + all;
    } else {
      text = std::to_string(done_);
    }
    const double taken = now - start_;
    if (finished_ || total_ == 0) {
      text += "  " + lora::duration_text(taken);
    } else if (done_ > 0) {
      text += "  " + lora::duration_text(taken * (1.0 - share()) / share()) + " left";
    }
    return note_.empty() ? text : text + "  " + printable(note_);
  }

  void show(double now) {
    std::string text = state(now);
    if (options_.mode == ProgressMode::lines) {
      text = label_ + ": " + text + "\n";
    } else {
      // Leave the last column free: some terminals wrap the line after writing it.
      const std::size_t room = std::max<std::size_t>(terminal_columns(), 2) - 1;
      const std::size_t taken = columns_of(label_) + columns_of(text) + 6;
      // Keep the first bar's width while there is room, so it does not jump when the note changes.
      widest_bar_ = shown_             ? widest_bar_
                    : taken + 4 < room ? std::min<std::size_t>(room - taken - 4, 30)
                                       : 0;
      const std::size_t width = taken < room ? std::min(room - taken, widest_bar_) : 0;
      std::string bar;
      if (total_ > 0 && width >= 5) {
        const std::size_t full = static_cast<std::size_t>(share() * static_cast<double>(width));
        bar = "[" + std::string(full, '=') + std::string(full < width ? 1 : 0, '>');
        bar += std::string(width + 1 - bar.size(), ' ') + "]  ";
      }
      text = label_ + "  " + bar + text;
      cut(text, room);
      const std::size_t columns = columns_of(text);
      text =
          "\r" + text + std::string(columns < drawn_columns_ ? drawn_columns_ - columns : 0, ' ');
      drawn_columns_ = columns;
    }
    shown_ = true;
    options_.write(text);
  }

  void close() {
    const bool open_line = options_.mode == ProgressMode::bar && shown_ && !closed_;
    closed_ = true;
    if (open_line) options_.write("\n");
  }

  std::string label_, note_;
  Index total_ = 0, done_ = 0;
  ProgressOptions options_;
  double start_ = 0, last_ = 0;
  std::size_t drawn_columns_ = 0, widest_bar_ = 0;
  bool shown_ = false, finished_ = false, closed_ = false;
};

}  // namespace tools
