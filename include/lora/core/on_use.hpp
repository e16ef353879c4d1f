// Explains why some code of this library is a template although it needs no parameter.
//
// The compiler compiles an ordinary function wherever its header is included, with all that the
// function uses of the standard library, even if the program never calls it; it only parses a
// template. For a function that composes text this saves less than 2 ms, so such a function is an
// inline function. It pays for code that instantiates containers of its own types. With g++ 12,
// lora/lora.hpp takes 4 MB more of the compiler's memory (15 ms) if the two functions of
// optim/parameter_groups.hpp are not templates, 3 MB for the table of adapters/default_targets.hpp,
// 1 MB for kernels/dispatch.hpp, and an estimated 4 MB for LRSchedule, 8 MB for LoRAConfig and 19
// MB for Pattern. There a function is a `template <class = void>`, a class is BasicName<Tag> beside
// `using Name = BasicName<>`, and both are compiled where they are used.
// tests/structure/compile_memory_test.cpp bounds the total.
#pragma once

#include <type_traits>

namespace lora {

/// Is T, but only once the template with the parameter Tag is instantiated. A member of type T is
/// completed where the template is parsed; a member of type OnUse<T, Tag> is not.
template <class T, class Tag>
using OnUse = typename std::conditional<true, T, Tag>::type;

}  // namespace lora
