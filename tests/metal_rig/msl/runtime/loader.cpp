// Loads compiled libraries. Function constants are read by a library's static initialisers, so a
// specialisation is a private copy of the file, opened while its constants are published here.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "msl_runtime.h"

namespace {

using Constants = std::map<uint32_t, std::vector<char>>;
std::mutex load_mutex;
const Constants* published = nullptr;  // while a library is being loaded

// Every load gets a name of its own: dlopen compares names before it looks at the file.
std::string private_copy(const std::string& path) {
  static unsigned serial = 0;
  const std::string copy =
      path + "." + std::to_string(getpid()) + "." + std::to_string(serial++) + ".so";
  std::error_code error;
  std::filesystem::copy_file(path, copy, error);
  return error ? "" : copy;
}

}  // namespace

extern "C" {

bool __msl_function_constant(unsigned index, void* value, unsigned n_bytes) {
  if (!published) return false;
  const auto found = published->find(index);
  if (found == published->end()) return false;
  if (value) memcpy(value, found->second.data(), std::min<size_t>(n_bytes, found->second.size()));
  return true;
}

void* msl_load(const char* path, const uint32_t* indices, const void* const* values,
               const uint32_t* sizes, uint32_t n_constants, char* message, size_t message_bytes) {
  std::lock_guard lock(load_mutex);
  Constants constants;
  for (uint32_t i = 0; i < n_constants; ++i) {
    const auto* bytes = static_cast<const char*>(values[i]);
    constants[indices[i]].assign(bytes, bytes + sizes[i]);
  }
  // Kernels find the runtime's functions in the global scope, wherever this library was loaded.
  Dl_info self{};
  if (dladdr(reinterpret_cast<void*>(&msl_load), &self)) {
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  }
  const std::string copy = private_copy(path);
  published = &constants;
  void* library = copy.empty() ? nullptr : dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
  published = nullptr;
  if (!library) snprintf(message, message_bytes, "%s", copy.empty() ? "cannot copy" : dlerror());
  if (!copy.empty()) unlink(copy.c_str());
  return library;
}

uint32_t msl_kernel_count(void* library) {
  return *static_cast<const unsigned*>(dlsym(library, "__msl_n_kernels"));
}

const __msl_kernel* msl_kernel_at(void* library, uint32_t i) {
  return static_cast<const __msl_kernel*>(dlsym(library, "__msl_kernels")) + i;
}

}  // extern "C"
