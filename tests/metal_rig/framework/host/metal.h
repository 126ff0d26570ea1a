// Adds on the device: plain C++ outside, Objective-C++ inside.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

class Metal {
 public:
  // Throws std::runtime_error with the compiler's message.
  explicit Metal(const std::string& source);
  ~Metal();
  // x: [n], y: [n] -> x + scale * y in x. Throws std::runtime_error if the device failed.
  void add(float* x, const float* y, uint32_t n, float scale);

 private:
  struct State;
  std::unique_ptr<State> state_;
};
