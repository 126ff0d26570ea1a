// Prints nothing, writes llama.cpp's logits: used once by make_goldens.py, never by the product.
//
//   llamacpp_logits MODEL.gguf OUT.f32 N_PREDICT ID,ID,...
//
// OUT.f32 receives float32 [n_prompt + N_PREDICT, vocab_size]: one row per prompt token (one batch,
// every position's logits), then one row per greedily generated token, decoded one by one.
// CPU only, one thread, float32 KV cache, no flash attention, no repacked weights, so
// that nothing but the weights' own types and ggml's kernels rounds.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

namespace {

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "llamacpp_logits: %s\n", message.c_str());
  std::exit(1);
}

std::vector<llama_token> ParseIds(const std::string& text) {
  std::vector<llama_token> ids;
  std::stringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) ids.push_back(std::stoi(item));
  return ids;
}

// Decodes `tokens` at positions first, first+1, ... with logits for every one of them.
void Decode(llama_context* context, const std::vector<llama_token>& tokens, llama_pos first) {
  llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = first + static_cast<llama_pos>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = static_cast<int32_t>(tokens.size());
  const int32_t status = llama_decode(context, batch);
  llama_batch_free(batch);
  if (status != 0) Fail("llama_decode returned " + std::to_string(status));
}

llama_context_params ContextParams(size_t n_positions) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(n_positions);
  params.n_batch = params.n_ubatch = params.n_ctx;
  params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  return params;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) Fail("usage: llamacpp_logits MODEL.gguf OUT.f32 N_PREDICT ID,ID,...");
  const size_t n_predict = std::stoul(argv[3]);
  const std::vector<llama_token> prompt = ParseIds(argv[4]);
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);

  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  model_params.use_extra_bufts = false;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model(
      llama_model_load_from_file(argv[1], model_params), llama_model_free);
  if (!model) Fail(std::string("cannot load ") + argv[1]);
  std::unique_ptr<llama_context, decltype(&llama_free)> context(
      llama_init_from_model(model.get(), ContextParams(prompt.size() + n_predict)), llama_free);
  if (!context) Fail("cannot create a context");

  std::unique_ptr<FILE, decltype(&std::fclose)> out(std::fopen(argv[2], "wb"), std::fclose);
  if (!out) Fail(std::string("cannot write ") + argv[2]);
  const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
  const auto write_row = [&](int32_t index) {
    const float* row = llama_get_logits_ith(context.get(), index);
    if (std::fwrite(row, sizeof(float), n_vocab, out.get()) != static_cast<size_t>(n_vocab)) {
      Fail("short write");
    }
    return static_cast<llama_token>(std::max_element(row, row + n_vocab) - row);
  };

  Decode(context.get(), prompt, 0);
  llama_token next = 0;
  for (size_t i = 0; i < prompt.size(); ++i) next = write_row(static_cast<int32_t>(i));
  for (size_t i = 0; i < n_predict; ++i) {
    Decode(context.get(), {next}, static_cast<llama_pos>(prompt.size() + i));
    next = write_row(0);
  }
  return 0;
}
