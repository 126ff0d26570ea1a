// Names of all tensor types that GGUF files use or used, so that a refusal can name the type.
#pragma once

#include <cstdint>
#include <string>

namespace quarrel::gguf {

// "IQ2_XXS", or "type 77" for a number that no known version of the format defines.
std::string ggml_type_name(std::uint32_t number);

}  // namespace quarrel::gguf
