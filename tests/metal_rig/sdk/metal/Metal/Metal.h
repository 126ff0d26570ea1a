// Stub of the compute part of Apple's <Metal/Metal.h>: what a host layer that only dispatches
// compute kernels needs. check_selectors.py compares it with another source of the API.
#pragma once
#import <Foundation/Foundation.h>
#include <stdint.h>

#ifdef __cplusplus
#define MTL_EXTERN extern "C" __attribute__((visibility("default")))
#else
#define MTL_EXTERN extern __attribute__((visibility("default")))
#endif
#pragma clang assume_nonnull begin

typedef struct {
  NSUInteger width, height, depth;
} MTLSize;
static inline MTLSize MTLSizeMake(NSUInteger width, NSUInteger height, NSUInteger depth) {
  MTLSize size = {width, height, depth};
  return size;
}

typedef NS_OPTIONS(NSUInteger, MTLResourceOptions){
    MTLResourceCPUCacheModeDefaultCache = 0,
    MTLResourceCPUCacheModeWriteCombined = 1,
    MTLResourceStorageModeShared = 0 << 4,
    MTLResourceStorageModePrivate = 2 << 4,
    MTLResourceHazardTrackingModeUntracked = 1 << 8,
    MTLResourceHazardTrackingModeTracked = 2 << 8,
};
typedef NS_OPTIONS(NSUInteger, MTLBarrierScope){
    MTLBarrierScopeBuffers = 1,
    MTLBarrierScopeTextures = 2,
};
typedef NS_ENUM(NSUInteger, MTLDispatchType){
    MTLDispatchTypeSerial = 0,
    MTLDispatchTypeConcurrent = 1,
};
typedef NS_ENUM(NSUInteger, MTLDataType){
    MTLDataTypeNone = 0,  MTLDataTypeFloat = 3,  MTLDataTypeHalf = 16,
    MTLDataTypeInt = 29,  MTLDataTypeUInt = 33,  MTLDataTypeShort = 37,
    MTLDataTypeUShort = 41, MTLDataTypeChar = 45, MTLDataTypeUChar = 49, MTLDataTypeBool = 53,
};
typedef NS_ENUM(NSUInteger, MTLCommandBufferStatus){
    MTLCommandBufferStatusNotEnqueued = 0, MTLCommandBufferStatusEnqueued = 1,
    MTLCommandBufferStatusCommitted = 2,   MTLCommandBufferStatusScheduled = 3,
    MTLCommandBufferStatusCompleted = 4,   MTLCommandBufferStatusError = 5,
};
typedef NS_ENUM(NSUInteger, MTLCommandBufferError){
    MTLCommandBufferErrorNone = 0,          MTLCommandBufferErrorInternal = 1,
    MTLCommandBufferErrorTimeout = 2,       MTLCommandBufferErrorPageFault = 3,
    MTLCommandBufferErrorNotPermitted = 7,  MTLCommandBufferErrorOutOfMemory = 8,
    MTLCommandBufferErrorInvalidResource = 9,
};
typedef NS_ENUM(NSUInteger, MTLLibraryError){
    MTLLibraryErrorUnsupported = 1,      MTLLibraryErrorInternal = 2,
    MTLLibraryErrorCompileFailure = 3,   MTLLibraryErrorCompileWarning = 4,
    MTLLibraryErrorFunctionNotFound = 5, MTLLibraryErrorFileNotFound = 6,
};
typedef NS_OPTIONS(NSUInteger, MTLPipelineOption){
    MTLPipelineOptionNone = 0,
    MTLPipelineOptionFailOnBinaryArchiveMiss = 1 << 2,
};
typedef NS_ENUM(NSInteger, MTLCaptureDestination){
    MTLCaptureDestinationDeveloperTools = 1,
    MTLCaptureDestinationGPUTraceDocument = 2,
};
typedef NS_ENUM(NSUInteger, MTLBinaryArchiveError){
    MTLBinaryArchiveErrorNone = 0,
    MTLBinaryArchiveErrorInvalidFile = 1,
    MTLBinaryArchiveErrorUnexpectedElement = 2,
    MTLBinaryArchiveErrorCompilationFailure = 3,
};
typedef NS_ENUM(NSUInteger, MTLLanguageVersion){
    MTLLanguageVersion3_0 = (3 << 16),
    MTLLanguageVersion3_1 = (3 << 16) + 1,
    MTLLanguageVersion3_2 = (3 << 16) + 2,
};
typedef NS_ENUM(NSInteger, MTLMathMode){
    MTLMathModeSafe = 0,
    MTLMathModeRelaxed = 1,
    MTLMathModeFast = 2,
};
typedef NS_ENUM(NSInteger, MTLGPUFamily){
    MTLGPUFamilyApple7 = 1007,
    MTLGPUFamilyApple8 = 1008,
    MTLGPUFamilyApple9 = 1009,
    MTLGPUFamilyMetal3 = 5001,
};
MTL_EXTERN NSString *const MTLCommandBufferErrorDomain;
MTL_EXTERN NSString *const MTLLibraryErrorDomain;
MTL_EXTERN NSString *const MTLBinaryArchiveDomain;

@protocol MTLDevice, MTLCommandBuffer, MTLComputeCommandEncoder;
@class MTLComputePipelineReflection;
typedef MTLComputePipelineReflection *MTLAutoreleasedComputePipelineReflection;
typedef void (^MTLCommandBufferHandler)(id<MTLCommandBuffer>);

// Instance variables stand here because the gcc runtime's ABI wants them in the interface.
@interface MTLCompileOptions : NSObject <NSCopying>
#ifndef __APPLE__
{
  NSDictionary *preprocessorMacros;
  BOOL fastMathEnabled;
  MTLMathMode mathMode;
  MTLLanguageVersion languageVersion;
}
#endif
@property(readwrite, nullable, copy, nonatomic) NSDictionary *preprocessorMacros;
@property(readwrite, nonatomic) BOOL fastMathEnabled;
@property(readwrite, nonatomic) MTLMathMode mathMode;  // macOS 15
@property(readwrite, nonatomic) MTLLanguageVersion languageVersion;
@end

@interface MTLFunctionConstantValues : NSObject <NSCopying>
#ifndef __APPLE__
{
 @public
  void *_values;
}
#endif
- (void)setConstantValue:(const void *)value type:(MTLDataType)type atIndex:(NSUInteger)index;
@end

@protocol MTLResource <NSObject>
@property(nullable, copy, atomic) NSString *label;
@end

@protocol MTLBuffer <MTLResource>
@property(readonly) NSUInteger length;
- (void *)contents;
@end

@protocol MTLFunction <NSObject>
@property(readonly) NSString *name;
@end

@protocol MTLLibrary <NSObject>
@property(nullable, copy, atomic) NSString *label;
@property(readonly) NSArray *functionNames;
- (nullable id<MTLFunction>)newFunctionWithName:(NSString *)name;
- (nullable id<MTLFunction>)newFunctionWithName:(NSString *)name
                                 constantValues:(MTLFunctionConstantValues *)values
                                          error:(NSError *_Nullable *_Nullable)error;
@end

@protocol MTLBinaryArchive;
@interface MTLComputePipelineDescriptor : NSObject <NSCopying>
#ifndef __APPLE__
{
  NSString *label;
  id<MTLFunction> computeFunction;
  BOOL threadGroupSizeIsMultipleOfThreadExecutionWidth;
  NSUInteger maxTotalThreadsPerThreadgroup;
  NSArray *binaryArchives;
}
#endif
@property(nullable, copy, nonatomic) NSString *label;
@property(nullable, readwrite, nonatomic, strong) id<MTLFunction> computeFunction;
@property(readwrite, nonatomic) BOOL threadGroupSizeIsMultipleOfThreadExecutionWidth;
@property(readwrite, nonatomic) NSUInteger maxTotalThreadsPerThreadgroup;
@property(nullable, readwrite, nonatomic, copy) NSArray *binaryArchives;
@end

@interface MTLBinaryArchiveDescriptor : NSObject <NSCopying>
#ifndef __APPLE__
{
  NSURL *url;
}
#endif
@property(nullable, readwrite, nonatomic, copy) NSURL *url;
@end

// Compiled pipelines, kept in a file.
@protocol MTLBinaryArchive <NSObject>
@property(nullable, copy, atomic) NSString *label;
- (BOOL)addComputePipelineFunctionsWithDescriptor:(MTLComputePipelineDescriptor *)descriptor
                                            error:(NSError *_Nullable *_Nullable)error;
- (BOOL)serializeToURL:(NSURL *)url error:(NSError *_Nullable *_Nullable)error;
@end

@protocol MTLComputePipelineState <NSObject>
@property(readonly) NSUInteger maxTotalThreadsPerThreadgroup;
@property(readonly) NSUInteger threadExecutionWidth;
@property(readonly) NSUInteger staticThreadgroupMemoryLength;
@end

@protocol MTLCommandEncoder <NSObject>
@property(nullable, copy, atomic) NSString *label;
- (void)endEncoding;
@end

@protocol MTLComputeCommandEncoder <MTLCommandEncoder>
@property(readonly) MTLDispatchType dispatchType;
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state;
- (void)setBuffer:(nullable id<MTLBuffer>)buffer
           offset:(NSUInteger)offset
          atIndex:(NSUInteger)index;
- (void)setBufferOffset:(NSUInteger)offset atIndex:(NSUInteger)index;
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index;
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index;
- (void)dispatchThreadgroups:(MTLSize)threadgroupsPerGrid
       threadsPerThreadgroup:(MTLSize)threadsPerThreadgroup;
- (void)dispatchThreads:(MTLSize)threadsPerGrid
    threadsPerThreadgroup:(MTLSize)threadsPerThreadgroup;
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope;
- (void)memoryBarrierWithResources:(const id<MTLResource> _Nonnull *_Nonnull)resources
                             count:(NSUInteger)count;
@end

@protocol MTLCommandBuffer <NSObject>
@property(readonly) MTLCommandBufferStatus status;
@property(nullable, readonly) NSError *error;
@property(readonly) BOOL retainedReferences;
@property(readonly) NSTimeInterval GPUStartTime;
@property(readonly) NSTimeInterval GPUEndTime;
@property(nullable, copy, atomic) NSString *label;
- (nullable id<MTLComputeCommandEncoder>)computeCommandEncoder;
- (nullable id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:
    (MTLDispatchType)dispatchType;
- (void)addCompletedHandler:(MTLCommandBufferHandler)block;
- (void)commit;
- (void)waitUntilCompleted;
@end

@protocol MTLCommandQueue <NSObject>
@property(nullable, copy, atomic) NSString *label;
- (nullable id<MTLCommandBuffer>)commandBuffer;
- (nullable id<MTLCommandBuffer>)commandBufferWithUnretainedReferences;
@end

@protocol MTLDevice <NSObject>
@property(readonly) NSString *name;
@property(readonly) BOOL hasUnifiedMemory;
@property(readonly) uint64_t recommendedMaxWorkingSetSize;
@property(readonly) NSUInteger currentAllocatedSize;
@property(readonly) NSUInteger maxBufferLength;
@property(readonly) NSUInteger maxThreadgroupMemoryLength;
@property(readonly) MTLSize maxThreadsPerThreadgroup;
- (BOOL)supportsFamily:(MTLGPUFamily)family;
- (nullable id<MTLCommandQueue>)newCommandQueue;
- (nullable id<MTLBuffer>)newBufferWithLength:(NSUInteger)length
                                      options:(MTLResourceOptions)options;
- (nullable id<MTLBuffer>)newBufferWithBytes:(const void *)bytes
                                      length:(NSUInteger)length
                                     options:(MTLResourceOptions)options;
- (nullable id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)bytes
                                            length:(NSUInteger)length
                                           options:(MTLResourceOptions)options
                                       deallocator:(void (^_Nullable)(void *bytes,
                                                                      NSUInteger length))deallocator;
- (nullable id<MTLLibrary>)newLibraryWithSource:(NSString *)source
                                        options:(nullable MTLCompileOptions *)options
                                          error:(NSError *_Nullable *_Nullable)error;
// A .metallib made by Xcode's metal compiler.
- (nullable id<MTLLibrary>)newLibraryWithURL:(NSURL *)url
                                       error:(NSError *_Nullable *_Nullable)error;
- (nullable id<MTLBinaryArchive>)
    newBinaryArchiveWithDescriptor:(MTLBinaryArchiveDescriptor *)descriptor
                             error:(NSError *_Nullable *_Nullable)error;
- (nullable id<MTLComputePipelineState>)
    newComputePipelineStateWithFunction:(id<MTLFunction>)function
                                  error:(NSError *_Nullable *_Nullable)error;
- (nullable id<MTLComputePipelineState>)
    newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor *)descriptor
                                  options:(MTLPipelineOption)options
                               reflection:
                                   (MTLAutoreleasedComputePipelineReflection *_Nullable)reflection
                                    error:(NSError *_Nullable *_Nullable)error;
@end

@interface MTLCaptureDescriptor : NSObject <NSCopying>
#ifndef __APPLE__
{
  id captureObject;
  MTLCaptureDestination destination;
  NSURL *outputURL;
}
#endif
@property(nullable, readwrite, nonatomic, strong) id captureObject;  // a device or queue
@property(readwrite, nonatomic) MTLCaptureDestination destination;
@property(nullable, readwrite, nonatomic, copy) NSURL *outputURL;
@end

@interface MTLCaptureManager : NSObject
+ (MTLCaptureManager *)sharedCaptureManager;
- (BOOL)supportsDestination:(MTLCaptureDestination)destination;
- (BOOL)startCaptureWithDescriptor:(MTLCaptureDescriptor *)descriptor
                             error:(NSError *_Nullable *_Nullable)error;
- (void)stopCapture;
@property(readonly) BOOL isCapturing;
@end

MTL_EXTERN __attribute__((ns_returns_retained)) id<MTLDevice> _Nullable
MTLCreateSystemDefaultDevice(void);
#pragma clang assume_nonnull end
