// MTLCaptureManager: the trace is a text file with one line per dispatch.
#include <fstream>

#include "software_metal.h"

namespace {

struct Capture {
  std::mutex mutex;
  bool active = false;
  std::ofstream file;
};
Capture& capture() {
  static auto* only = new Capture;
  return *only;
}

}  // namespace

void rig_capture_dispatch(const std::string& kernel, const uint32_t* grid,
                          const uint32_t* threads) {
  std::lock_guard lock(capture().mutex);
  if (!capture().active) return;
  capture().file << kernel << " " << grid[0] << "x" << grid[1] << "x" << grid[2] << " / "
                 << threads[0] << "x" << threads[1] << "x" << threads[2] << "\n";
}

@implementation MTLCaptureDescriptor {
}
@synthesize captureObject, destination, outputURL;
- (id)copyWithZone:(NSZone*)zone {
  MTLCaptureDescriptor* copy = [[MTLCaptureDescriptor alloc] init];
  copy.captureObject = self.captureObject;
  copy.destination = self.destination;
  copy.outputURL = self.outputURL;
  return copy;
}
- (void)dealloc {
  [captureObject release];
  [outputURL release];
  [super dealloc];
}
@end

@implementation MTLCaptureManager
+ (MTLCaptureManager*)sharedCaptureManager {
  static MTLCaptureManager* only = [[MTLCaptureManager alloc] init];
  return only;
}
- (BOOL)supportsDestination:(MTLCaptureDestination)destination {
  return destination == MTLCaptureDestinationGPUTraceDocument;
}
- (BOOL)isCapturing {
  std::lock_guard lock(capture().mutex);
  return capture().active;
}
- (BOOL)startCaptureWithDescriptor:(MTLCaptureDescriptor*)descriptor error:(NSError**)error {
  std::lock_guard lock(capture().mutex);
  const char* problem = nullptr;
  if (capture().active) problem = "a capture is active already";
  if (!descriptor.captureObject) problem = "the descriptor names no capture object";
  if (!descriptor.outputURL) problem = "the descriptor names no output file";
  if (!problem) {
    capture().file = std::ofstream([[descriptor.outputURL path] UTF8String]);
    if (!capture().file) problem = "the output file cannot be written";
  }
  if (problem) {
    rig_report(error, @"MTLCaptureErrorDomain", 1, problem);
    return NO;
  }
  capture().active = true;
  return YES;
}
- (void)stopCapture {
  std::lock_guard lock(capture().mutex);
  if (!capture().active) rig::state().violation("stopCapture without a capture");
  capture().active = false;
  capture().file.close();
}
@end
