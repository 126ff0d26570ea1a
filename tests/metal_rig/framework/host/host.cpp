#include <cstdio>
#include <exception>
#include <string>

#include "metal.h"

// Returns 0, or 1 with the exception's text in message.
extern "C" int host_add(const char* source, float* x, const float* y, uint32_t n, float scale,
                        char* message, size_t message_bytes) {
  try {
    Metal(source).add(x, y, n, scale);
    return 0;
  } catch (const std::exception& error) {
    snprintf(message, message_bytes, "%s", error.what());
    return 1;
  }
}
