// The shaders, embedded at build time by embed_shaders.cmake.
#pragma once

#include <span>
#include <string_view>

namespace quarrel::metal {

struct ShaderSource {
  std::string_view stem;  // "rms_norm": shaders/rms_norm.metal
  std::string_view text;  // with its local includes put in place
};

std::span<const ShaderSource> shader_sources();

}  // namespace quarrel::metal
