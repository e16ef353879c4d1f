// The part that the tapes of all adapted layers share.
#pragma once

#include <lora/layers/adapter.hpp>

#include <string>
#include <vector>

namespace lora {

/// What backward needs from the forward of any layer: the adapters that acted, and their tapes. A
/// layer's own Tape derives from it. The caller owns it and reuses it from step to step.
template <class S>
struct LayerTape {
  std::vector<AdapterTape<S>> adapters;
  std::size_t used = 0;     ///< how many of `adapters` the last forward used
  Index rows = -1;          ///< of the last forward; -1 before it, and after one that failed
  std::uint64_t state = 0;  ///< the layer's acting_state() in it; backward needs the same
  bool spent = false;       ///< a DoRA adapter's backward has overwritten what forward kept

  /// Resets the tape at the start of a forward.
  void begin(std::uint64_t acting_state) {
    used = 0;
    rows = -1;
    spent = false;
    state = acting_state;
  }
  /// The tape of the next acting adapter.
  /// Allocates: when more adapters act than before.
  AdapterTape<S>& next(const Adapter<S>& adapter) {
    if (adapters.size() == used) adapters.emplace_back();
    AdapterTape<S>& own = adapters[used++];
    own.id = adapter.id;
    return own;
  }
  /// Throws Error unless there was a forward. Here and below, `where` starts the message.
  void expect_forward(const char* where) const {
    if (rows < 0 || adapters.size() < used) refuse(where, "has seen no forward");
  }
  /// Throws Error if something else acts now than in forward, or a backward has overwritten what
  /// forward kept.
  void expect_current(const char* where, std::uint64_t acting_state) const {
    if (state != acting_state) {
      refuse(
          where,
          "was made by another layer, or what acts in this one was changed since forward "
          "(adapters or trained copies activated, rescaled, merged, disabled or deleted, or full "
          "fine-tuning started or ended); run forward again");
    }
    if (spent) {
      refuse(where,
             "has served a backward already, in which a DoRA adapter overwrote what it kept; run "
             "forward again");
    }
  }

 private:
  [[noreturn]] static void refuse(const char* where, const char* what) {
    throw Error(std::string(where) + ": the tape " + what);
  }
};

}  // namespace lora
