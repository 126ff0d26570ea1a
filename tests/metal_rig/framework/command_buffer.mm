// MTLCommandBuffer, MTLCommandQueue, and the thread that runs what was committed.
#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>

#include "software_metal.h"

using rig::state;

namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

NSError* error_of(const RigDispatch& dispatch, int status, const std::string& message) {
  const MTLCommandBufferError code = status == MSL_TIMEOUT         ? MTLCommandBufferErrorTimeout
                                     : status == MSL_OUT_OF_BOUNDS ? MTLCommandBufferErrorPageFault
                                                                   : MTLCommandBufferErrorInternal;
  const std::string name = dispatch.pipeline->_function->_kernel->name;
  return rig_error(MTLCommandBufferErrorDomain, static_cast<NSInteger>(code),
                   name + ": " + message);
}

// Runs one dispatch. Returns nil, or why it failed.
NSError* run(RigDispatch* dispatch) {
  if (state().fails(RIG_FAULT_GPU))
    return error_of(*dispatch, MSL_OUT_OF_BOUNDS, "injected by a test");
  if (state().fails(RIG_FAULT_TIMEOUT))
    return error_of(*dispatch, MSL_TIMEOUT, "injected by a test");
  ++state().n_dispatches;
  rig_capture_dispatch(dispatch->pipeline->_function->_kernel->name, dispatch->grid_threads,
                       dispatch->threads);
  void* buffers[kNumBufferSlots] = {};
  for (NSUInteger i = 0; i < kNumBufferSlots; ++i) {
    RigArgument& argument = dispatch->arguments[i];
    if (argument.buffer) {
      buffers[i] = static_cast<char*>(argument.buffer->_contents) + argument.offset;
    } else if (!argument.bytes.empty()) {
      buffers[i] = argument.bytes.data();
    }
  }
  msl_launch launch{};
  launch.entry = dispatch->pipeline->_function->_kernel->entry;
  launch.buffers = buffers;
  std::copy_n(dispatch->grid_threads, 3, launch.grid_threads);
  std::copy_n(dispatch->threads, 3, launch.threads);
  launch.threadgroup_bytes = dispatch->threadgroup_bytes;
  launch.n_threadgroup_arguments = dispatch->n_threadgroup_arguments;
  launch.n_workers = state().access_checks ? 1 : state().n_workers.load();
  launch.reversed = state().reversed;
  launch.timeout_seconds = state().timeout_seconds;
  char message[512];
  const int status = msl_dispatch(&launch, message, sizeof message);
  return status == MSL_OK ? nil : error_of(*dispatch, status, message);
}

// The commands in the order in which they run. Between two barriers a GPU may take any order.
std::vector<RigCommand*> ordered(std::vector<RigCommand>* commands) {
  std::vector<RigCommand*> order;
  size_t first = 0;
  for (RigCommand& command : *commands) {
    order.push_back(&command);
    if (command.kind == RigCommand::kDispatch) continue;
    if (state().reversed) std::reverse(order.begin() + static_cast<long>(first), order.end() - 1);
    first = order.size();
  }
  return order;
}

// One thread for all queues: command buffers run in the order of their commits, while the host
// goes on, as on a GPU.
class Executor {
 public:
  static Executor& only() {
    static auto* executor = new Executor;  // never destroyed: its thread never ends
    return *executor;
  }
  void push(RigCommandBuffer* commandBuffer) {
    {
      std::lock_guard lock(mutex_);
      waiting_.push_back(commandBuffer);
    }
    wake_.notify_one();
  }

 private:
  Executor() { std::thread(&Executor::serve, this).detach(); }
  void serve() {
    GSRegisterCurrentThread();
    for (;;) {
      RigCommandBuffer* next = nil;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return !waiting_.empty(); });
        next = waiting_.front();
        waiting_.pop_front();
      }
      @autoreleasepool {
        [next execute];
        [next release];
      }
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<RigCommandBuffer*> waiting_;
};

}  // namespace

void rig_enqueue(RigCommandBuffer* commandBuffer) { Executor::only().push([commandBuffer retain]); }

@implementation RigCommandBuffer
- (instancetype)initRetaining:(BOOL)retains {
  if (!(self = [super init])) return nil;
  _commands = new std::vector<RigCommand>;
  _held = new std::set<RigBuffer*>;
  _handlers = new std::vector<MTLCommandBufferHandler>;
  _mutex = new std::mutex;
  _finished = new std::condition_variable;
  _retains = retains;
  ++state().n_command_buffers;
  return self;
}
- (void)dealloc {
  --state().n_command_buffers;
  [self releaseArguments];
  for (MTLCommandBufferHandler handler : *_handlers) Block_release(handler);
  delete _commands;
  delete _held;
  delete _handlers;
  delete _mutex;
  delete _finished;
  [_error release];
  [super dealloc];
}
- (void)releaseArguments {
  for (RigCommand& command : *_commands) {
    if (!command.dispatch) continue;
    for (RigArgument& argument : command.dispatch->arguments) {
      if (!argument.buffer) continue;
      --*argument.buffer->_n_uses;
      argument.buffer = nil;
    }
    [command.dispatch->pipeline release];
    command.dispatch->pipeline = nil;
  }
  _commands->clear();
  for (RigBuffer* buffer : *_held) [buffer release];
  _held->clear();
}
- (void)hold:(RigBuffer*)buffer {
  if (buffer && _retains && _held->insert(buffer).second) [buffer retain];
}
- (MTLCommandBufferStatus)status {
  std::lock_guard lock(*_mutex);
  return _status;
}
- (NSError*)error {
  std::lock_guard lock(*_mutex);
  return [[_error retain] autorelease];
}
- (BOOL)retainedReferences {
  return _retains;
}
- (double)GPUStartTime {
  std::lock_guard lock(*_mutex);
  return _start;
}
- (double)GPUEndTime {
  std::lock_guard lock(*_mutex);
  return _end;
}
- (BOOL)uncommitted:(const char*)call {
  if (self.status < MTLCommandBufferStatusCommitted) return YES;
  state().violation(std::string(call) + " after commit");
  return NO;
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
  return [self computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)type {
  if (![self uncommitted:"computeCommandEncoder"]) return nil;
  if (_encoding) {
    state().violation("a second encoder before endEncoding of the first");
    return nil;
  }
  return [[[RigEncoder alloc] initWith:self type:type] autorelease];
}
- (void)addCompletedHandler:(MTLCommandBufferHandler)block {
  if (![self uncommitted:"addCompletedHandler"]) return;
  _handlers->push_back((MTLCommandBufferHandler)Block_copy(block));
}
- (void)commit {
  if (![self uncommitted:"commit"]) return;
  if (_encoding) return state().violation("commit before endEncoding");
  {
    std::lock_guard lock(*_mutex);
    _status = MTLCommandBufferStatusCommitted;
  }
  rig_enqueue(self);
}
- (void)waitUntilCompleted {
  std::unique_lock lock(*_mutex);
  if (_status < MTLCommandBufferStatusCommitted) {
    lock.unlock();
    return state().violation("waitUntilCompleted before commit");
  }
  _finished->wait(lock, [&] { return _is_finished; });
}
- (void)execute {
  const double start = now_seconds();
  NSError* error = nil;
  msl_barrier(nullptr);  // command buffers of one queue run in order
  for (RigCommand* command : ordered(_commands)) {
    if (command->kind == RigCommand::kBarrierAll) msl_barrier(nullptr);
    if (command->kind == RigCommand::kBarrierOn) msl_barrier(command->buffer->_contents);
    if (command->kind != RigCommand::kDispatch) continue;
    error = run(command->dispatch.get());
    if (error) break;
  }
  [self releaseArguments];
  {
    std::lock_guard lock(*_mutex);
    _start = start;
    _end = now_seconds();
    _error = [error retain];
    _status = error ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
  }
  for (MTLCommandBufferHandler handler : *_handlers) handler(self);
  {
    std::lock_guard lock(*_mutex);
    _is_finished = YES;
    _finished->notify_all();  // under the lock: the waiter may release us right after it
  }
}
@end

@implementation RigQueue
- (id<MTLCommandBuffer>)commandBuffer {
  return [[[RigCommandBuffer alloc] initRetaining:YES] autorelease];
}
- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences {
  return [[[RigCommandBuffer alloc] initRetaining:NO] autorelease];
}
@end
