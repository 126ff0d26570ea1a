// MTLDevice, MTLBuffer and the process's one device.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "software_metal.h"

using rig::state;

NSString* const MTLCommandBufferErrorDomain = @"MTLCommandBufferErrorDomain";
NSString* const MTLLibraryErrorDomain = @"MTLLibraryErrorDomain";

NSError* rig_error(NSString* domain, NSInteger code, const std::string& message) {
  NSString* text = [NSString stringWithUTF8String:message.c_str()];
  return [NSError errorWithDomain:domain
                             code:code
                         userInfo:[NSDictionary dictionaryWithObject:text
                                                              forKey:NSLocalizedDescriptionKey]];
}

void rig_report(NSError** error, NSString* domain, NSInteger code, const std::string& message) {
  if (error) *error = rig_error(domain, code, message);
}

@implementation RigBuffer
- (instancetype)initWithLength:(NSUInteger)length {
  if (!(self = [super init])) return nil;
  _contents = msl_guarded_alloc(length);
  if (!_contents) {
    [self release];
    return nil;
  }
  [self countedWithLength:length];
  return self;
}
- (instancetype)initWithBorrowed:(void*)bytes
                          length:(NSUInteger)length
                     deallocator:(void (^)(void*, NSUInteger))deallocator {
  if (!(self = [super init])) return nil;
  _contents = bytes;
  _borrowed = YES;
  if (deallocator) _deallocator = (void (^)(void*, NSUInteger))Block_copy(deallocator);
  [self countedWithLength:length];
  return self;
}
- (void)countedWithLength:(NSUInteger)length {
  _length = length;
  _n_uses = new std::atomic<int>(0);
  _watched = state().access_checks;
  if (_watched) msl_watch(_contents, length);
  ++state().n_buffers;
  state().buffer_bytes += length;
}
- (void)dealloc {
  if (_n_uses) {
    --state().n_buffers;
    state().buffer_bytes -= _length;
    if (_watched) msl_unwatch(_contents);
    if (*_n_uses > 0) {
      state().violation("a buffer was released while a command buffer without retained references "
                        "still uses it");
    } else if (_borrowed) {
      if (_deallocator) _deallocator(_contents, _length);
    } else {
      if (!msl_guarded_intact(_contents)) {
        state().violation("something wrote next to a buffer of " + std::to_string(_length) +
                          " bytes");
      }
      msl_guarded_free(_contents);
    }
  }
  if (_deallocator) Block_release(_deallocator);
  delete _n_uses;
  [super dealloc];
}
- (NSUInteger)length {
  return _length;
}
- (void*)contents {
  return _contents;
}
@end

@implementation RigDevice
- (NSString*)name {
  return @"Metal rig (CPU)";
}
- (BOOL)hasUnifiedMemory {
  return YES;
}
- (uint64_t)recommendedMaxWorkingSetSize {
  return state().working_set;
}
- (NSUInteger)currentAllocatedSize {
  return state().buffer_bytes;
}
- (NSUInteger)maxBufferLength {
  return kMaxBufferBytes;
}
- (NSUInteger)maxThreadgroupMemoryLength {
  return kMaxThreadgroupBytes;
}
- (MTLSize)maxThreadsPerThreadgroup {
  return MTLSizeMake(1024, 1024, 1024);
}
- (BOOL)supportsFamily:(MTLGPUFamily)family {
  return family == MTLGPUFamilyApple7 || family == MTLGPUFamilyApple8 ||
         family == MTLGPUFamilyMetal3;
}
- (id<MTLCommandQueue>)newCommandQueue {
  return [[RigQueue alloc] init];
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  if (length == 0 || length > kMaxBufferBytes) {
    state().violation("a buffer of " + std::to_string(length) +
                      " bytes: the length must be 1 to maxBufferLength");
    return nil;
  }
  if (state().fails(RIG_FAULT_ALLOCATION)) return nil;
  return [[RigBuffer alloc] initWithLength:length];
}
- (id<MTLBuffer>)newBufferWithBytes:(const void*)bytes
                             length:(NSUInteger)length
                            options:(MTLResourceOptions)options {
  id<MTLBuffer> buffer = [self newBufferWithLength:length options:options];
  if (buffer) memcpy([buffer contents], bytes, length);
  return buffer;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void*)bytes
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void*, NSUInteger))deallocator {
  const auto page = static_cast<NSUInteger>(sysconf(_SC_PAGESIZE));
  if (length == 0 || length % page != 0 || reinterpret_cast<uintptr_t>(bytes) % page != 0) {
    state().violation("newBufferWithBytesNoCopy: address and length must be multiples of the page");
    return nil;
  }
  if (state().fails(RIG_FAULT_ALLOCATION)) return nil;
  return [[RigBuffer alloc] initWithBorrowed:bytes length:length deallocator:deallocator];
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString*)source
                               options:(MTLCompileOptions*)options
                                 error:(NSError**)error {
  if (state().fails(RIG_FAULT_COMPILE)) {
    rig_report(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, "injected by a test");
    return nil;
  }
  std::vector<std::string> flags;
  NSDictionary* macros = [options preprocessorMacros];
  for (NSString* name in macros) {
    NSString* value = [[macros objectForKey:name] description];
    flags.push_back(std::string("-D") + [name UTF8String] + "=" + [value UTF8String]);
  }
  if (state().access_checks) flags.push_back("--check-accesses");
  return [RigLibrary newWithSource:source flags:flags error:error];
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function
                                                             error:(NSError**)error {
  if (!function) {
    state().violation("newComputePipelineStateWithFunction: nil");
    return nil;
  }
  if (state().fails(RIG_FAULT_PIPELINE)) {
    rig_report(error, MTLLibraryErrorDomain, MTLLibraryErrorInternal, "injected by a test");
    return nil;
  }
  RigPipeline* pipeline = [[RigPipeline alloc] init];
  pipeline->_function = [(RigFunction*)function retain];
  pipeline->_max_threads = state().max_threads;
  return pipeline;
}
- (id<MTLComputePipelineState>)
    newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor*)descriptor
                                  options:(MTLPipelineOption)options
                               reflection:(MTLAutoreleasedComputePipelineReflection*)reflection
                                    error:(NSError**)error {
  RigFunction* function = (RigFunction*)descriptor.computeFunction;
  if (!function) {
    state().violation("a pipeline descriptor without a computeFunction");
    return nil;
  }
  bool found = false;
  for (RigBinaryArchive* archive in descriptor.binaryArchives) {
    found |= archive->_keys->count(*function->_key) > 0;
  }
  if (!found && (options & MTLPipelineOptionFailOnBinaryArchiveMiss)) {
    rig_report(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorUnexpectedElement,
               "no archive has this pipeline");
    return nil;
  }
  return [self newComputePipelineStateWithFunction:function error:error];
}
- (id<MTLBinaryArchive>)newBinaryArchiveWithDescriptor:(MTLBinaryArchiveDescriptor*)descriptor
                                                 error:(NSError**)error {
  return [[RigBinaryArchive alloc] initWithDescriptor:descriptor error:error];
}
- (id<MTLLibrary>)newLibraryWithURL:(NSURL*)url error:(NSError**)error {
  rig_report(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported,
             "the rig compiles source only: it cannot run a .metallib");
  return nil;
}
@end

// Sends every class used on the queue's thread its first message here. gcc's runtime runs
// +initialize under its global lock; two threads doing so against gnustep's own locks can deadlock.
static void initialize_classes() {
  for (Class c : {[RigBuffer class],
                  [RigFunction class],
                  [RigLibrary class],
                  [RigPipeline class],
                  [RigCommandBuffer class],
                  [RigEncoder class],
                  [RigQueue class],
                  [NSAutoreleasePool class],
                  [NSError class],
                  [NSString class],
                  [NSDictionary class],
                  [NSThread class],
                  [MTLFunctionConstantValues class]}) {
    (void)[c self];
  }
  [NSThread currentThread];
  @autoreleasepool {
    (void)[rig_error(MTLCommandBufferErrorDomain, 0, "") localizedDescription];
  }
}

extern "C" id<MTLDevice> MTLCreateSystemDefaultDevice(void) {
  static RigDevice* device = [] {
    initialize_classes();
    return [[RigDevice alloc] init];
  }();
  return [device retain];
}
