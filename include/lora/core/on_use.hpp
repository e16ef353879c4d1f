// Why so much in this library is a template that need not be one.
//
// What is no template is compiled wherever its header is included, and with it all that it uses of
// the standard library, though the program calls none of it; a template is only read. So a function
// is a `template <class = void>`, a class is BasicName<Tag> beside `using Name = BasicName<>`, and
// both are compiled where they are used. tests/structure/compile_time.sh shows what it saves.
#pragma once

#include <type_traits>

namespace lora {

/// T, known to be T only where the template that Tag is a parameter of is used: a member of type T
/// is completed where the template is read, a member of type OnUse<T, Tag> waits.
template <class T, class Tag>
using OnUse = typename std::conditional<true, T, Tag>::type;

}  // namespace lora
