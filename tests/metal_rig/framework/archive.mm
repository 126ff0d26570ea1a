// MTLBinaryArchive: a text file with one line per pipeline. Nothing is compiled ahead here; what
// can be tested is that a host stores, finds and misses the right pipelines, also across processes.
#include <fstream>

#include "software_metal.h"

NSString* const MTLBinaryArchiveDomain = @"MTLBinaryArchiveDomain";
static const char* const kHeader = "metal rig binary archive";

@implementation MTLComputePipelineDescriptor {
}
@synthesize label, computeFunction, threadGroupSizeIsMultipleOfThreadExecutionWidth;
@synthesize maxTotalThreadsPerThreadgroup, binaryArchives;
- (id)copyWithZone:(NSZone*)zone {
  MTLComputePipelineDescriptor* copy = [[MTLComputePipelineDescriptor alloc] init];
  copy.label = self.label;
  copy.computeFunction = self.computeFunction;
  copy.threadGroupSizeIsMultipleOfThreadExecutionWidth =
      self.threadGroupSizeIsMultipleOfThreadExecutionWidth;
  copy.maxTotalThreadsPerThreadgroup = self.maxTotalThreadsPerThreadgroup;
  copy.binaryArchives = self.binaryArchives;
  return copy;
}
- (void)dealloc {
  [label release];
  [computeFunction release];
  [binaryArchives release];
  [super dealloc];
}
@end

@implementation MTLBinaryArchiveDescriptor {
}
@synthesize url;
- (id)copyWithZone:(NSZone*)zone {
  MTLBinaryArchiveDescriptor* copy = [[MTLBinaryArchiveDescriptor alloc] init];
  copy.url = self.url;
  return copy;
}
- (void)dealloc {
  [url release];
  [super dealloc];
}
@end

@implementation RigBinaryArchive
- (instancetype)initWithDescriptor:(MTLBinaryArchiveDescriptor*)descriptor error:(NSError**)error {
  if (!(self = [super init])) return nil;
  _keys = new std::set<std::string>;
  if (!descriptor.url) return self;
  std::ifstream file([[descriptor.url path] UTF8String]);
  std::string line;
  if (!std::getline(file, line) || line != kHeader) {
    rig_report(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorInvalidFile,
               "not a binary archive");
    [self release];
    return nil;
  }
  while (std::getline(file, line)) _keys->insert(line);
  return self;
}
- (void)dealloc {
  delete _keys;
  [super dealloc];
}
- (BOOL)addComputePipelineFunctionsWithDescriptor:(MTLComputePipelineDescriptor*)descriptor
                                            error:(NSError**)error {
  RigFunction* function = (RigFunction*)descriptor.computeFunction;
  if (!function) {
    rig::state().violation("addComputePipelineFunctions: a descriptor without a computeFunction");
    return NO;
  }
  _keys->insert(*function->_key);
  return YES;
}
- (BOOL)serializeToURL:(NSURL*)url error:(NSError**)error {
  std::ofstream file([[url path] UTF8String]);
  file << kHeader << "\n";
  for (const std::string& key : *_keys) file << key << "\n";
  file.flush();
  if (!file) {
    rig_report(error, MTLBinaryArchiveDomain, MTLBinaryArchiveErrorInvalidFile, "cannot write");
  }
  return file ? YES : NO;
}
@end
