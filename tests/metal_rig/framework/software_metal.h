// Classes of the software Metal. Manual retain and release: see docs/metal-rig.md for the runtimes.
#pragma once
#import <Metal/Metal.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../msl/runtime/msl_runtime.h"
#include "state.h"

constexpr NSUInteger kNumBufferSlots = 31;    // of a compute encoder's argument table
constexpr NSUInteger kMaxInlineBytes = 4096;  // of setBytes
constexpr NSUInteger kMaxThreadgroupBytes = 32768;
constexpr NSUInteger kMaxBufferBytes = 4ul << 30;

typedef std::map<uint32_t, std::vector<char>> ConstantMap;

// An NSError (autoreleased) with this message.
NSError* rig_error(NSString* domain, NSInteger code, const std::string& message);
// Leaves such an error with a caller that wants to know.
void rig_report(NSError** error, NSString* domain, NSInteger code, const std::string& message);

// What most of the API's objects have: a name for tools.
@interface RigLabelled : NSObject {
  NSString* _label;
}
@property(nullable, copy, atomic) NSString* label;
@end

@interface RigBuffer : RigLabelled <MTLBuffer> {
 @public
  void* _contents;
  NSUInteger _length;
  std::atomic<int>* _n_uses;  // encoded in command buffers that have not completed
  BOOL _watched;
  void (^_deallocator)(void*, NSUInteger);  // of memory that is not ours
  BOOL _borrowed;
}
// Guarded memory of the rig's own, all zeros. Returns nil when there is none.
- (nullable instancetype)initWithLength:(NSUInteger)length;
- (nullable instancetype)initWithBorrowed:(void*)bytes
                                   length:(NSUInteger)length
                              deallocator:(void (^)(void*, NSUInteger))deallocator;
@end

@interface RigFunction : NSObject <MTLFunction> {
 @public
  const __msl_kernel* _kernel;
  NSString* _name;
  std::string* _key;  // names the library, the function and its constants, in every process
}
@end

@interface RigLibrary : RigLabelled <MTLLibrary> {
 @public
  std::string* _path;
}
// Compiles source; `flags` are the compiler program's.
+ (nullable RigLibrary*)newWithSource:(NSString*)source
                                flags:(const std::vector<std::string>&)flags
                                error:(NSError**)error;
@end

@interface RigPipeline : NSObject <MTLComputePipelineState> {
 @public
  RigFunction* _function;
  NSUInteger _max_threads;
}
@end

// One entry of the argument table: a buffer, or bytes copied by setBytes.
struct RigArgument {
  RigBuffer* buffer = nil;
  NSUInteger offset = 0;
  std::vector<char> bytes;
  bool bound() const { return buffer != nil || !bytes.empty(); }
};

struct RigDispatch {
  RigPipeline* pipeline = nil;
  RigArgument arguments[kNumBufferSlots];
  uint32_t threadgroup_bytes[kNumBufferSlots] = {};
  uint32_t n_threadgroup_arguments = 0;
  uint32_t grid_threads[3] = {}, threads[3] = {};
};

// What a command buffer does, in order.
struct RigCommand {
  enum Kind { kDispatch, kBarrierAll, kBarrierOn } kind;
  std::unique_ptr<RigDispatch> dispatch;
  RigBuffer* buffer = nil;  // of kBarrierOn
};

@interface RigCommandBuffer : RigLabelled <MTLCommandBuffer> {
 @public
  std::vector<RigCommand>* _commands;
  std::set<RigBuffer*>* _held;  // retained until completion, if this one retains at all
  std::vector<MTLCommandBufferHandler>* _handlers;
  std::mutex* _mutex;
  std::condition_variable* _finished;
  BOOL _is_finished;
  MTLCommandBufferStatus _status;
  NSError* _error;
  double _start, _end;
  BOOL _encoding, _retains;
}
- (instancetype)initRetaining:(BOOL)retains;
- (void)hold:(RigBuffer*)buffer;
// Runs everything and calls the handlers; on the queue's thread.
- (void)execute;
@end

@interface RigEncoder : RigLabelled <MTLComputeCommandEncoder> {
 @public
  RigCommandBuffer* _command_buffer;
  RigDispatch* _current;
  MTLDispatchType _type;
  BOOL _ended;
}
- (instancetype)initWith:(RigCommandBuffer*)commandBuffer type:(MTLDispatchType)type;
@end

@interface RigQueue : RigLabelled <MTLCommandQueue>
@end

@interface RigDevice : NSObject <MTLDevice>
@end

@interface RigBinaryArchive : RigLabelled <MTLBinaryArchive> {
 @public
  std::set<std::string>* _keys;
}
// Reads the archive's file, if the descriptor names one.
- (nullable instancetype)initWithDescriptor:(MTLBinaryArchiveDescriptor*)descriptor
                                      error:(NSError**)error;
@end

// A capture notes what runs while it lasts.
void rig_capture_dispatch(const std::string& kernel, const uint32_t* grid, const uint32_t* threads);

// Queues a committed command buffer: one thread runs them in order.
void rig_enqueue(RigCommandBuffer* commandBuffer);
