#import "metal/pipeline_cache.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "metal/objc_text.h"
#include "metal/shader_sources.h"

namespace quarrel::metal {
namespace {

// Fast-math lets a compiler reorder sums and assume that there is no infinity: results would depend
// on its mood. macOS 15 has another name for the property and deprecates this one, which goes on to
// work and is known to every SDK.
MTLCompileOptions* compile_options() {
  MTLCompileOptions* options = [[MTLCompileOptions alloc] init];
  options.languageVersion = MTLLanguageVersion3_1;  // the first with bfloat
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
  options.fastMathEnabled = NO;
#pragma clang diagnostic pop
  return options;
}

// An archive belongs to the sources and the GPU that it was made for (FNV-1a).
std::string archive_name(id<MTLDevice> device) {
  std::uint64_t hash = 14695981039346656037ull;
  const auto mix = [&](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  };
  for (const ShaderSource& source : shader_sources()) mix(source.text);
  mix(to_string(device.name));
  char name[48];
  std::snprintf(name, sizeof name, "pipelines-%016llx.metalarchive",
                static_cast<unsigned long long>(hash));
  return name;
}

std::string key_of(std::string_view stem, const std::string& kernel,
                   const std::vector<FunctionConstant>& constants) {
  std::string key = std::string(stem) + "/" + kernel;
  for (const FunctionConstant& c : constants)
    key += " " + std::to_string(c.id) + "=" + std::to_string(c.bits);
  return key;
}

}  // namespace

PipelineCache::PipelineCache(id<MTLDevice> device, const MetalOptions& options)
    : device_(device), options_(options) {
  open_archive();
}

void PipelineCache::open_archive() {
  if (options_.archive_folder.empty()) return;
  archive_file_ = (std::filesystem::path(options_.archive_folder) / archive_name(device_)).string();
  MTLBinaryArchiveDescriptor* descriptor = [[MTLBinaryArchiveDescriptor alloc] init];
  if (std::filesystem::exists(archive_file_)) {
    descriptor.url = [NSURL fileURLWithPath:to_objc(archive_file_)];
    archive_ = [device_ newBinaryArchiveWithDescriptor:descriptor error:nullptr];
    if (archive_ != nil) return;
    descriptor.url = nil;  // damaged: begun anew
  }
  archive_ = [device_ newBinaryArchiveWithDescriptor:descriptor error:nullptr];
}

void PipelineCache::save_archive() {
  if (archive_ == nil || !archive_is_stale_) return;
  archive_is_stale_ = false;
  std::error_code failed;
  std::filesystem::create_directories(options_.archive_folder, failed);
  // Another process may be reading the file: it is replaced as a whole.
  const std::string unfinished =
      archive_file_ + "." + std::to_string(reinterpret_cast<std::uintptr_t>(this));
  if ([archive_ serializeToURL:[NSURL fileURLWithPath:to_objc(unfinished)] error:nullptr])
    std::filesystem::rename(unfinished, archive_file_, failed);
  std::filesystem::remove(unfinished, failed);
}

id<MTLLibrary> PipelineCache::library(std::string_view stem) {
  if (const auto found = libraries_.find(stem); found != libraries_.end()) return found->second;
  const auto sources = shader_sources();
  const auto source = std::ranges::find(sources, stem, &ShaderSource::stem);
  if (source == sources.end()) throw Error("[metal] no shader " + std::string(stem));
  id<MTLLibrary> made = nil;
  if (!options_.metallib_folder.empty()) {
    const auto file =
        std::filesystem::path(options_.metallib_folder) / (std::string(stem) + ".metallib");
    if (std::filesystem::exists(file))
      made = [device_ newLibraryWithURL:[NSURL fileURLWithPath:to_objc(file.string())]
                                  error:nullptr];
  }
  if (made == nil) {
    NSError* error = nil;
    made = [device_ newLibraryWithSource:to_objc(source->text)
                                 options:compile_options()
                                   error:&error];
    if (made == nil)
      throw Error("[metal] shader " + std::string(stem) +
                  " does not compile: " + message_of(error));
  }
  libraries_.emplace(stem, made);
  return made;
}

id<MTLComputePipelineState> PipelineCache::make_state(id<MTLFunction> function) {
  NSError* error = nil;
  id<MTLComputePipelineState> state = nil;
  if (archive_ != nil) {
    MTLComputePipelineDescriptor* descriptor = [[MTLComputePipelineDescriptor alloc] init];
    descriptor.computeFunction = function;
    descriptor.binaryArchives = @[ archive_ ];
    state = [device_ newComputePipelineStateWithDescriptor:descriptor
                                                   options:MTLPipelineOptionFailOnBinaryArchiveMiss
                                                reflection:nullptr
                                                     error:nullptr];
    if (state != nil) return state;
    archive_is_stale_ |= [archive_ addComputePipelineFunctionsWithDescriptor:descriptor
                                                                       error:nullptr];
  }
  state = [device_ newComputePipelineStateWithFunction:function error:&error];
  if (state == nil)
    throw Error("[metal] kernel " + to_string(function.name) +
                " cannot be made ready: " + message_of(error));
  return state;
}

const Pipeline& PipelineCache::get(std::string_view stem, const std::string& kernel,
                                   const std::vector<FunctionConstant>& constants) {
  const std::string key = key_of(stem, kernel, constants);
  if (const auto found = pipelines_.find(key); found != pipelines_.end()) return found->second;
  @autoreleasepool {
    MTLFunctionConstantValues* values = [[MTLFunctionConstantValues alloc] init];
    for (const FunctionConstant& c : constants)
      [values setConstantValue:&c.bits type:c.type atIndex:c.id];
    NSError* error = nil;
    id<MTLFunction> function = [library(stem) newFunctionWithName:to_objc(kernel)
                                                   constantValues:values
                                                            error:&error];
    if (function == nil)
      throw Error("[metal] shader " + std::string(stem) + " has no kernel " + kernel + ": " +
                  message_of(error));
    return pipelines_.emplace(key, Pipeline{make_state(function), kernel}).first->second;
  }
}

}  // namespace quarrel::metal
