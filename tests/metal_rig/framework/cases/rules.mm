// One case per rule of the API: each breaks it, and the software Metal has to notice.
#include <unistd.h>

#include "cases.h"

namespace {

// A command buffer with an encoder ready to dispatch `scale`.
struct Encoding : Fixture {
  id<MTLBuffer> x = buffer();
  id<MTLCommandBuffer> commands = [queue commandBuffer];
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
  uint32_t addend = 0;
  bool open = true;

  Encoding() {
    [encoder setComputePipelineState:pipeline("scale")];
    [encoder setBuffer:x offset:0 atIndex:0];
    [encoder setBytes:&addend length:4 atIndex:1];
  }
  ~Encoding() {
    if (open) [encoder endEncoding];
  }
  void end() {
    [encoder endEncoding];
    open = false;
  }
};

// Expects exactly one violation, which contains the text.
void expect(const char* text) {
  CHECK(rig_violation_count() == 1);
  if (!strstr(rig_violation(0), text)) fprintf(stderr, "got: %s\n", rig_violation(0));
  CHECK(strstr(rig_violation(0), text) != nullptr);
}

const Cases kCases = {
    {"dispatch_after_end_encoding",
     [] {
       Encoding e;
       e.end();
       dispatch(e.encoder);
       expect("dispatch after endEncoding");
     }},
    {"set_bytes_after_end_encoding",
     [] {
       Encoding e;
       e.end();
       [e.encoder setBytes:&e.addend length:4 atIndex:1];
       expect("setBytes after endEncoding");
     }},
    {"set_bytes_over_4_kb",
     [] {
       Encoding e;
       std::vector<char> bytes(4097);
       [e.encoder setBytes:bytes.data() length:4096 atIndex:1];
       CHECK(rig_violation_count() == 0);
       [e.encoder setBytes:bytes.data() length:4097 atIndex:1];
       expect("4097 bytes, at most 4096");
     }},
    {"threadgroup_memory_over_32_kb",
     [] {
       Encoding e;
       [e.encoder setThreadgroupMemoryLength:32768 atIndex:0];
       dispatch(e.encoder);
       CHECK(rig_violation_count() == 0);
       [e.encoder setThreadgroupMemoryLength:16 atIndex:1];
       dispatch(e.encoder);
       expect("32784 bytes of threadgroup memory");
     }},
    {"threadgroup_memory_not_a_multiple_of_16",
     [] {
       Encoding e;
       [e.encoder setThreadgroupMemoryLength:20 atIndex:0];
       expect("20 is no multiple of 16");
     }},
    {"threadgroup_too_large",
     [] {
       rig_set_max_threads_per_threadgroup(64);
       Encoding e;
       CHECK(e.pipeline("scale").maxTotalThreadsPerThreadgroup == 64);
       [e.encoder dispatchThreads:MTLSizeMake(96, 1, 1)
            threadsPerThreadgroup:MTLSizeMake(96, 1, 1)];
       expect("96 threads, the pipeline allows 64");
     }},
    {"empty_dispatch",
     [] {
       Encoding e;
       dispatch(e.encoder, 0);
       expect("empty grid");
     }},
    {"dispatch_without_pipeline",
     [] {
       Encoding e;
       e.end();
       id<MTLComputeCommandEncoder> second = [e.commands computeCommandEncoder];
       dispatch(second);
       [second endEncoding];
       expect("without a pipeline");
     }},
    {"pipeline_of_no_function",
     [] {
       Fixture f;
       id<MTLFunction> missing = [f.library newFunctionWithName:@"missing"];
       CHECK(missing == nil);
       NSError* error = nil;
       CHECK([f.device newComputePipelineStateWithFunction:missing error:&error] == nil);
       expect("newComputePipelineStateWithFunction: nil");
     }},
    {"argument_not_bound",
     [] {
       Encoding e;
       [e.encoder setBuffer:nil offset:0 atIndex:0];
       dispatch(e.encoder);
       expect("scale: nothing bound to buffer 0");
     }},
    {"threadgroup_argument_not_bound",
     [] {
       Encoding e;
       [e.encoder setComputePipelineState:e.pipeline("reverse")];
       dispatch(e.encoder);
       expect("reverse: nothing bound to threadgroup memory 0");
     }},
    {"buffer_index_over_30",
     [] {
       Encoding e;
       [e.encoder setBuffer:e.x offset:0 atIndex:31];
       expect("index 31");
     }},
    {"buffer_offset_past_the_end",
     [] {
       Encoding e;
       [e.encoder setBuffer:e.x offset:256 atIndex:0];
       expect("offset past the end");
     }},
    {"offset_without_buffer",
     [] {
       Encoding e;
       [e.encoder setBufferOffset:0 atIndex:5];
       expect("no buffer at this index");
     }},
    {"two_encoders_at_once",
     [] {
       Encoding e;
       CHECK([e.commands computeCommandEncoder] == nil);
       expect("second encoder");
     }},
    {"commit_before_end_encoding",
     [] {
       Encoding e;
       [e.commands commit];
       expect("commit before endEncoding");
     }},
    {"commit_twice",
     [] {
       Encoding e;
       e.end();
       [e.commands commit];
       [e.commands commit];
       expect("commit after commit");
       [e.commands waitUntilCompleted];
     }},
    {"encoder_after_commit",
     [] {
       Encoding e;
       e.end();
       [e.commands commit];
       CHECK([e.commands computeCommandEncoder] == nil);
       expect("computeCommandEncoder after commit");
       [e.commands waitUntilCompleted];
     }},
    {"handler_after_commit",
     [] {
       Encoding e;
       e.end();
       [e.commands commit];
       [e.commands addCompletedHandler:^(id<MTLCommandBuffer>){
       }];
       expect("addCompletedHandler after commit");
       [e.commands waitUntilCompleted];
     }},
    {"wait_before_commit",
     [] {
       Encoding e;
       [e.commands waitUntilCompleted];
       expect("waitUntilCompleted before commit");
     }},
    {"encoder_released_while_open",
     [] {
       Fixture f;
       @autoreleasepool {
         id<MTLCommandBuffer> commands = [f.queue commandBuffer];
         (void)[commands computeCommandEncoder];
       }
       expect("released without endEncoding");
     }},
    {"buffer_released_in_use_without_retained_references",
     [] {
       Fixture f;
       id<MTLCommandBuffer> commands = [f.queue commandBufferWithUnretainedReferences];
       CHECK(!commands.retainedReferences);
       @autoreleasepool {
         id<MTLBuffer> x = f.buffer();
         id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
         const uint32_t zero = 0;
         [encoder setComputePipelineState:f.pipeline("scale")];
         [encoder setBuffer:x offset:0 atIndex:0];
         [encoder setBytes:&zero length:4 atIndex:1];
         dispatch(encoder);
         [encoder endEncoding];
       }
       expect("still uses it");
       _exit(0);  // the command buffer points to memory that is gone
     }},
    {"buffer_of_no_length",
     [] {
       Fixture f;
       CHECK([f.device newBufferWithLength:0 options:MTLResourceStorageModeShared] == nil);
       expect("1 to maxBufferLength");
     }},
    {"no_copy_of_unaligned_memory",
     [] {
       Fixture f;
       std::vector<char> memory(8192);
       CHECK([f.device newBufferWithBytesNoCopy:memory.data() + 1
                                         length:4096
                                        options:MTLResourceStorageModeShared
                                    deallocator:nil] == nil);
       expect("multiples of the page");
     }},
    {"host_writes_past_a_buffer",
     [] {
       Fixture f;
       @autoreleasepool {
         id<MTLBuffer> x = [f.device newBufferWithLength:8 options:MTLResourceStorageModeShared];
         Fixture::at(x, 2) = 1;
       }
       expect("wrote next to a buffer of 8 bytes");
     }},
};

}  // namespace

// With a third argument violations end the process, as in Apple's validation layer.
int main(int argc, char** argv) {
  Cases cases = kCases;
  for (auto& [name, run] : cases) {
    run = [run, argc] {
      rig_set_abort_on_violation(argc == 3);
      run();
    };
  }
  return run_cases(cases, argc == 3 ? 2 : argc, argv);
}
