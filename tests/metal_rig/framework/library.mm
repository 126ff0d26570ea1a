// MTLLibrary, MTLFunction, function constants and pipelines. Compiling is done by the rig's
// compiler, run as a program.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "software_metal.h"

extern char** environ;

namespace {

struct Folder {  // a temporary folder, removed at the end
  Folder() {
    char name[] = "/tmp/metal-rig-XXXXXX";
    if (const char* made = mkdtemp(name)) path = made;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

// Runs the compiler; returns its exit status.
int run_compiler(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<std::string> words = {RIG_PYTHON, "-m", "metal_rig.msl.compiler"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::string python_path = "PYTHONPATH=" RIG_TESTS;
  std::vector<char*> environment;
  for (char** entry = environ; *entry; ++entry) {
    if (std::string(*entry).rfind("PYTHONPATH=", 0) != 0) environment.push_back(*entry);
  }
  environment.push_back(python_path.data());
  environment.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child = 0;
  const int failed =
      posix_spawn(&child, RIG_PYTHON, &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  int status = 1;
  if (!failed) waitpid(child, &status, 0);
  return status;
}

// The compiler names a library by a hash of its source; constants follow in hexadecimal.
std::string key_of(const std::string& path, const char* name, const ConstantMap& constants) {
  std::string key = std::filesystem::path(path).stem().string() + " " + name;
  char digits[8];
  for (const auto& [index, bytes] : constants) {
    key += " " + std::to_string(index) + "=";
    for (char byte : bytes) {
      snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(byte));
      key += digits;
    }
  }
  return key;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

@implementation MTLCompileOptions {
}
@synthesize preprocessorMacros, fastMathEnabled, mathMode, languageVersion;
- (id)copyWithZone:(NSZone*)zone {
  MTLCompileOptions* copy = [[MTLCompileOptions alloc] init];
  copy.preprocessorMacros = self.preprocessorMacros;
  copy.fastMathEnabled = self.fastMathEnabled;
  copy.mathMode = self.mathMode;
  copy.languageVersion = self.languageVersion;
  return copy;
}
- (void)dealloc {
  [preprocessorMacros release];
  [super dealloc];
}
@end

static ConstantMap& constants_of(MTLFunctionConstantValues* values) {
  return *static_cast<ConstantMap*>(values->_values);
}

@implementation MTLFunctionConstantValues
- (instancetype)init {
  if ((self = [super init])) _values = new ConstantMap;
  return self;
}
- (void)dealloc {
  delete static_cast<ConstantMap*>(_values);
  [super dealloc];
}
- (id)copyWithZone:(NSZone*)zone {
  MTLFunctionConstantValues* copy = [[MTLFunctionConstantValues alloc] init];
  constants_of(copy) = constants_of(self);
  return copy;
}
- (void)setConstantValue:(const void*)value type:(MTLDataType)type atIndex:(NSUInteger)index {
  size_t n_bytes = 4;
  switch (type) {
    case MTLDataTypeBool:
    case MTLDataTypeChar:
    case MTLDataTypeUChar:
      n_bytes = 1;
      break;
    case MTLDataTypeHalf:
    case MTLDataTypeShort:
    case MTLDataTypeUShort:
      n_bytes = 2;
      break;
    case MTLDataTypeNone:
      rig::state().violation("setConstantValue: MTLDataTypeNone");
      return;
    default:
      break;
  }
  const char* bytes = static_cast<const char*>(value);
  constants_of(self)[static_cast<uint32_t>(index)].assign(bytes, bytes + n_bytes);
}
@end

@implementation RigFunction
- (NSString*)name {
  return _name;
}
- (void)dealloc {
  delete _key;
  [_name release];
  [super dealloc];
}
@end

@implementation RigPipeline
- (void)dealloc {
  [_function release];
  [super dealloc];
}
- (NSUInteger)maxTotalThreadsPerThreadgroup {
  return _max_threads;
}
- (NSUInteger)threadExecutionWidth {
  return 32;
}
// Known only once the kernel runs: the runtime counts there, and refuses more than 32 KB in all.
- (NSUInteger)staticThreadgroupMemoryLength {
  return 0;
}
@end

@implementation RigLibrary
+ (RigLibrary*)newWithSource:(NSString*)source
                       flags:(const std::vector<std::string>&)flags
                       error:(NSError**)error {
  static auto* known = new std::map<std::string, std::string>;  // source and flags -> library
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  std::string key = [source UTF8String];
  for (const std::string& flag : flags) key += '\0' + flag;
  std::string& path = (*known)[key];
  if (path.empty()) {
    Folder folder;
    std::ofstream(folder.path + "/source.metal") << [source UTF8String];
    std::vector<std::string> arguments = {folder.path + "/source.metal", "-o",
                                          folder.path + "/library.so"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    if (run_compiler(arguments, folder.path + "/log") != 0) {
      known->erase(key);
      rig_report(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure,
                 read_file(folder.path + "/log"));
      return nil;
    }
    path = std::filesystem::canonical(folder.path + "/library.so");  // in the compiler's cache
  }
  RigLibrary* library = [[RigLibrary alloc] init];
  library->_path = new std::string(path);
  return library;
}
- (void)dealloc {
  delete _path;
  [super dealloc];
}
- (id<MTLFunction>)load:(NSString*)name
              constants:(const ConstantMap&)constants
                  error:(NSError**)error {
  std::vector<uint32_t> indices, sizes;
  std::vector<const void*> values;
  for (const auto& [index, bytes] : constants) {
    indices.push_back(index);
    sizes.push_back(static_cast<uint32_t>(bytes.size()));
    values.push_back(bytes.data());
  }
  char message[512];
  void* handle = msl_load(_path->c_str(), indices.data(), values.data(), sizes.data(),
                          static_cast<uint32_t>(indices.size()), message, sizeof message);
  for (uint32_t i = 0; handle && i < msl_kernel_count(handle); ++i) {
    const __msl_kernel* kernel = msl_kernel_at(handle, i);
    if (strcmp(kernel->name, [name UTF8String]) != 0) continue;
    RigFunction* function = [[RigFunction alloc] init];
    function->_kernel = kernel;
    function->_name = [name copy];
    function->_key = new std::string(key_of(*_path, kernel->name, constants));
    return function;
  }
  rig_report(error, MTLLibraryErrorDomain, MTLLibraryErrorFunctionNotFound,
             handle ? std::string("no function named ") + [name UTF8String] : message);
  return nil;
}
- (id<MTLFunction>)newFunctionWithName:(NSString*)name {
  return [self load:name constants:ConstantMap() error:nullptr];
}
- (id<MTLFunction>)newFunctionWithName:(NSString*)name
                        constantValues:(MTLFunctionConstantValues*)values
                                 error:(NSError**)error {
  return [self load:name constants:constants_of(values) error:error];
}
- (NSArray*)functionNames {
  NSMutableArray* names = [NSMutableArray array];
  char message[512];
  void* handle = msl_load(_path->c_str(), nullptr, nullptr, nullptr, 0, message, sizeof message);
  for (uint32_t i = 0; handle && i < msl_kernel_count(handle); ++i) {
    [names addObject:[NSString stringWithUTF8String:msl_kernel_at(handle, i)->name]];
  }
  return names;
}
@end
