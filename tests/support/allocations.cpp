// The allocations that support/allocations.hpp counts: the program's malloc, or the sanitizer's
// hook.
#include "support/allocations.hpp"

#if defined(LORA_TEST_SANITIZER_HOOK)
// Declared here because <sanitizer/allocator_interface.h> is not installed with every compiler.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*,
                                                                  std::size_t),
                                                         void (*)(const volatile void*));
namespace lora_test::detail {
inline void on_malloc(const volatile void*, std::size_t size) { record(size); }
inline void on_free(const volatile void*) {}
inline const int hooked = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
}  // namespace lora_test::detail
#elif defined(LORA_TEST_GLIBC_MALLOC)
// Blocks come from glibc's allocator, so its free and its other functions fit and are not redefined
// here.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) noexcept {
  if (lora_test::detail::refuse()) return nullptr;
  lora_test::detail::record(size);
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  if (lora_test::detail::refuse()) return nullptr;
  lora_test::detail::record(count * size);
  return __libc_calloc(count, size);
}
void* realloc(void* old, std::size_t size) noexcept {
  if (lora_test::detail::refuse()) return nullptr;
  lora_test::detail::record(size);
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  if (lora_test::detail::refuse()) return nullptr;
  lora_test::detail::record(size);
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  if (lora_test::detail::refuse()) return nullptr;
  lora_test::detail::record(size);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** place, std::size_t alignment, std::size_t size) noexcept {
  const bool power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
  if (!power_of_two || alignment % sizeof(void*) != 0) return EINVAL;
  if (lora_test::detail::refuse()) return ENOMEM;
  lora_test::detail::record(size);
  void* block = __libc_memalign(alignment, size);
  if (block == nullptr) return ENOMEM;
  *place = block;
  return 0;
}
}  // extern "C"
#endif
