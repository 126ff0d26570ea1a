// MTLComputeCommandEncoder: every rule that can be checked is checked while encoding.
#include "software_metal.h"

using rig::state;

@implementation RigEncoder
- (instancetype)initWith:(RigCommandBuffer*)commandBuffer type:(MTLDispatchType)type {
  if (!(self = [super init])) return nil;
  _command_buffer = [commandBuffer retain];
  _command_buffer->_encoding = YES;
  _type = type;
  _current = new RigDispatch;
  return self;
}
- (void)dealloc {
  if (!_ended) state().violation("an encoder was released without endEncoding");
  [_current->pipeline release];
  delete _current;
  [_command_buffer release];
  [super dealloc];
}
- (MTLDispatchType)dispatchType {
  return _type;
}

// Whether one may still encode.
- (BOOL)open:(const char*)call {
  if (_ended) state().violation(std::string(call) + " after endEncoding");
  return !_ended;
}
- (BOOL)slot:(NSUInteger)index call:(const char*)call {
  if (index < kNumBufferSlots) return YES;
  state().violation(std::string(call) + ": index " + std::to_string(index) + ", the last is 30");
  return NO;
}

- (void)setComputePipelineState:(id<MTLComputePipelineState>)pipeline {
  if (![self open:"setComputePipelineState"]) return;
  if (!pipeline) return state().violation("setComputePipelineState: nil");
  [pipeline retain];
  [_current->pipeline release];
  _current->pipeline = (RigPipeline*)pipeline;
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
  if (![self open:"setBuffer"] || ![self slot:index call:"setBuffer"]) return;
  if (buffer && offset >= [buffer length])
    return state().violation("setBuffer: offset past the end");
  [_command_buffer hold:(RigBuffer*)buffer];
  _current->arguments[index] = {(RigBuffer*)buffer, offset, {}};
}
- (void)setBufferOffset:(NSUInteger)offset atIndex:(NSUInteger)index {
  if (![self open:"setBufferOffset"] || ![self slot:index call:"setBufferOffset"]) return;
  RigArgument& argument = _current->arguments[index];
  if (!argument.buffer) return state().violation("setBufferOffset: no buffer at this index");
  if (offset >= argument.buffer->_length) return state().violation("setBufferOffset: past the end");
  argument.offset = offset;
}
- (void)setBytes:(const void*)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
  if (![self open:"setBytes"] || ![self slot:index call:"setBytes"]) return;
  if (length == 0 || length > kMaxInlineBytes) {
    return state().violation("setBytes: " + std::to_string(length) + " bytes, at most 4096");
  }
  const char* begin = static_cast<const char*>(bytes);
  _current->arguments[index] = {nil, 0, std::vector<char>(begin, begin + length)};
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
  if (![self open:"setThreadgroupMemoryLength"]) return;
  if (![self slot:index call:"setThreadgroupMemoryLength"]) return;
  if (length % 16 != 0) {
    return state().violation("setThreadgroupMemoryLength: " + std::to_string(length) +
                             " is no multiple of 16");
  }
  _current->threadgroup_bytes[index] = static_cast<uint32_t>(length);
  _current->n_threadgroup_arguments =
      std::max(_current->n_threadgroup_arguments, static_cast<uint32_t>(index + 1));
}

// Every argument that the kernel declares is there.
- (BOOL)argumentsBound {
  const __msl_kernel* kernel = _current->pipeline->_function->_kernel;
  for (const int* code = kernel->signature; *code >= 0; ++code) {
    const int kind = *code / 256 % 256, index = *code % 256;
    const bool bound = kind == 0   ? _current->arguments[index].bound()
                       : kind == 1 ? _current->threadgroup_bytes[index] > 0
                                   : true;
    if (bound) continue;
    state().violation(std::string(kernel->name) + ": nothing bound to " +
                      (kind == 0 ? "buffer " : "threadgroup memory ") + std::to_string(index));
    return NO;
  }
  return YES;
}
- (BOOL)launchable {
  if (!_current->pipeline) {
    state().violation("dispatch without a pipeline state");
    return NO;
  }
  const uint32_t *threads = _current->threads, *grid = _current->grid_threads;
  const NSUInteger n_threads = NSUInteger(threads[0]) * threads[1] * threads[2];
  const NSUInteger max_threads = _current->pipeline->_max_threads;
  if (n_threads == 0 || NSUInteger(grid[0]) * grid[1] * grid[2] == 0) {
    state().violation("dispatch of an empty grid or threadgroup");
    return NO;
  }
  if (n_threads > max_threads) {
    state().violation("a threadgroup of " + std::to_string(n_threads) +
                      " threads, the pipeline allows " + std::to_string(max_threads));
    return NO;
  }
  NSUInteger n_bytes = 0;
  for (uint32_t length : _current->threadgroup_bytes) n_bytes += length;
  if (n_bytes > kMaxThreadgroupBytes) {
    state().violation(std::to_string(n_bytes) + " bytes of threadgroup memory, at most 32768");
    return NO;
  }
  return [self argumentsBound];
}

- (void)dispatchThreads:(MTLSize)grid threadsPerThreadgroup:(MTLSize)threads {
  if (![self open:"dispatch"]) return;
  const NSUInteger extents[3] = {grid.width, grid.height, grid.depth};
  const NSUInteger blocks[3] = {threads.width, threads.height, threads.depth};
  for (int d = 0; d < 3; ++d) {
    _current->grid_threads[d] = static_cast<uint32_t>(extents[d]);
    _current->threads[d] = static_cast<uint32_t>(blocks[d]);
  }
  if (![self launchable]) return;
  auto dispatch = std::make_unique<RigDispatch>(*_current);
  [dispatch->pipeline retain];
  for (RigArgument& argument : dispatch->arguments) {
    if (!argument.buffer) continue;
    ++*argument.buffer->_n_uses;
  }
  if (_type == MTLDispatchTypeSerial) [self barrier:RigCommand::kBarrierAll on:nil];
  _command_buffer->_commands->push_back({RigCommand::kDispatch, std::move(dispatch), nil});
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads {
  [self dispatchThreads:MTLSizeMake(groups.width * threads.width, groups.height * threads.height,
                                    groups.depth * threads.depth)
      threadsPerThreadgroup:threads];
}
- (void)barrier:(RigCommand::Kind)kind on:(RigBuffer*)buffer {
  _command_buffer->_commands->push_back({kind, nullptr, buffer});
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope {
  if (![self open:"memoryBarrierWithScope"]) return;
  if (scope & MTLBarrierScopeBuffers) [self barrier:RigCommand::kBarrierAll on:nil];
}
- (void)memoryBarrierWithResources:(const id<MTLResource>*)resources count:(NSUInteger)count {
  if (![self open:"memoryBarrierWithResources"]) return;
  for (NSUInteger i = 0; i < count; ++i) {
    [self barrier:RigCommand::kBarrierOn on:(RigBuffer*)resources[i]];
  }
}
- (void)endEncoding {
  if (![self open:"endEncoding"]) return;
  _ended = YES;
  _command_buffer->_encoding = NO;
  [self barrier:RigCommand::kBarrierAll on:nil];  // encoders of one command buffer run in order
}
@end
