// Why some of this library is a template that need not be one.
//
// What is no template is compiled wherever its header is included, and with it all that it uses of
// the standard library, though the program calls none of it; a template is only read. For a function
// that puts text together this saves less than 2 ms, so it is an inline function. It pays for what
// makes containers of types of its own: with g++ 12, lora/lora.hpp takes 4 MB more of the compiler's
// memory (15 ms) when the two functions of optim/parameter_groups.hpp are no templates, 3 MB for the
// table of adapters/default_targets.hpp, 1 MB for kernels/dispatch.hpp, and by estimate 4 MB for
// LRSchedule, 8 MB for LoRAConfig and 19 MB for Pattern. There a function is a `template <class =
// void>`, a class is BasicName<Tag> beside `using Name = BasicName<>`, and both are compiled where
// they are used. tests/structure/compile_memory_test.cpp holds the sum.
#pragma once

#include <type_traits>

namespace lora {

/// T, known to be T only where the template that Tag is a parameter of is used: a member of type T
/// is completed where the template is read, a member of type OnUse<T, Tag> waits.
template <class T, class Tag>
using OnUse = typename std::conditional<true, T, Tag>::type;

}  // namespace lora
