// Lets clang's -fobjc-runtime=gnustep-1.9 -fobjc-arc code run on gcc's libobjc and gnustep-base,
// the runtime that Debian has: the ARC entry points, message sending, and module loading.
#define _GNU_SOURCE
#include <Block.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct objc_object* id;
typedef const struct objc_selector* SEL;
typedef id (*IMP)(id, SEL, ...);
extern IMP objc_msg_lookup(id, SEL);
extern SEL sel_registerName(const char*);
extern id objc_getClass(const char*);

static id send(id object, const char* selector) {
  SEL sel = sel_registerName(selector);
  return objc_msg_lookup(object, sel)(object, sel);
}

// libBlocksRuntime's blocks are no objects: they are told by their isa.
extern void *_NSConcreteGlobalBlock[], *_NSConcreteStackBlock[], *_NSConcreteMallocBlock[];
static int is_block(id object) {
  void* isa = *(void**)object;
  return isa == _NSConcreteGlobalBlock || isa == _NSConcreteStackBlock ||
         isa == _NSConcreteMallocBlock;
}

id objc_retain(id object) {
  if (!object) return object;
  return is_block(object) ? (id)_Block_copy(object) : send(object, "retain");
}
void objc_release(id object) {
  if (!object) return;
  if (is_block(object)) {
    _Block_release(object);
  } else {
    send(object, "release");
  }
}
id objc_autorelease(id object) {
  return object && !is_block(object) ? send(object, "autorelease") : object;
}
id objc_retainBlock(id block) { return block ? (id)_Block_copy(block) : block; }
id objc_retainAutoreleasedReturnValue(id object) { return objc_retain(object); }
id objc_unsafeClaimAutoreleasedReturnValue(id object) { return object; }
id objc_autoreleaseReturnValue(id object) { return objc_autorelease(object); }
id objc_retainAutoreleaseReturnValue(id object) { return objc_autorelease(objc_retain(object)); }
id objc_retainAutorelease(id object) { return objc_autorelease(objc_retain(object)); }
id objc_storeStrong(id* place, id value) {
  id old = *place;
  value = objc_retain(value);
  *place = value;
  objc_release(old);
  return value;
}
void* objc_autoreleasePoolPush(void) {
  return send(send(objc_getClass("NSAutoreleasePool"), "alloc"), "init");
}
void objc_autoreleasePoolPop(void* pool) { send((id)pool, "drain"); }

// The loader's record of a file with Objective-C in it. clang's differs from gcc's in its version
// and in what it defines; a file without classes needs only its selectors, class references and
// constant strings ("statics") registered.
struct symbols {
  unsigned long n_selectors;
  void* selectors;
  unsigned short n_classes, n_categories;
  void* definitions[];  // classes, categories, statics
};
struct module {
  unsigned long version, size;
  const char* name;
  struct symbols* symbols;
};
enum { kGccVersion = 8 };

void __objc_exec_class(struct module* module) {
  static void (*gcc_exec_class)(struct module*);
  if (!gcc_exec_class) {
    gcc_exec_class =
        (void (*)(struct module*))dlsym(dlopen("libobjc.so.4", RTLD_NOW), "__objc_exec_class");
  }
  if (module->version == kGccVersion) {
    gcc_exec_class(module);
    return;
  }
  const struct symbols* theirs = module->symbols;
  if (theirs->n_classes) {
    fprintf(stderr, "%s defines an Objective-C class: sources under the rig must not\n",
            module->name);
    abort();
  }
  // The one category is where clang keeps its protocols: dropped. Both records live for ever.
  struct symbols* ours = calloc(1, sizeof *ours + 2 * sizeof(void*));
  ours->n_selectors = theirs->n_selectors;
  ours->selectors = theirs->selectors;
  ours->definitions[0] = theirs->definitions[theirs->n_categories];
  struct module* copy = calloc(1, sizeof *copy);
  *copy = *module;
  copy->version = kGccVersion;
  copy->size = sizeof *copy;
  copy->symbols = ours;
  gcc_exec_class(copy);
}

// objc_msgSend looks the method up with every argument register saved, then jumps to it.
// No @catch is allowed in sources under the rig, so C++ exception handling is exact for them.
asm(R"(.text
.globl objc_msgSend
.type objc_msgSend,@function
objc_msgSend:
  push %rbp
  mov %rsp,%rbp
  sub $0xd0,%rsp
  mov %rdi,-8(%rbp)
  mov %rsi,-16(%rbp)
  mov %rdx,-24(%rbp)
  mov %rcx,-32(%rbp)
  mov %r8,-40(%rbp)
  mov %r9,-48(%rbp)
  mov %rax,-56(%rbp)
  movups %xmm0,-0xd0(%rbp)
  movups %xmm1,-0xc0(%rbp)
  movups %xmm2,-0xb0(%rbp)
  movups %xmm3,-0xa0(%rbp)
  movups %xmm4,-0x90(%rbp)
  movups %xmm5,-0x80(%rbp)
  movups %xmm6,-0x70(%rbp)
  movups %xmm7,-0x60(%rbp)
  call objc_msg_lookup@PLT
  mov %rax,%r11
  mov -8(%rbp),%rdi
  mov -16(%rbp),%rsi
  mov -24(%rbp),%rdx
  mov -32(%rbp),%rcx
  mov -40(%rbp),%r8
  mov -48(%rbp),%r9
  mov -56(%rbp),%rax
  movups -0xd0(%rbp),%xmm0
  movups -0xc0(%rbp),%xmm1
  movups -0xb0(%rbp),%xmm2
  movups -0xa0(%rbp),%xmm3
  movups -0x90(%rbp),%xmm4
  movups -0x80(%rbp),%xmm5
  movups -0x70(%rbp),%xmm6
  movups -0x60(%rbp),%xmm7
  leave
  jmp *%r11
.size objc_msgSend,.-objc_msgSend
.globl objc_msgSend_stret
.type objc_msgSend_stret,@function
objc_msgSend_stret:
  push %rdi
  push %rsi
  push %rdx
  push %rcx
  push %r8
  push %r9
  sub $8,%rsp
  mov %rsi,%rdi
  mov %rdx,%rsi
  call objc_msg_lookup@PLT
  mov %rax,%r11
  add $8,%rsp
  pop %r9
  pop %r8
  pop %rcx
  pop %rdx
  pop %rsi
  pop %rdi
  jmp *%r11
.size objc_msgSend_stret,.-objc_msgSend_stret
.globl __gnustep_objcxx_personality_v0
__gnustep_objcxx_personality_v0:
  jmp __gxx_personality_v0@PLT
)");
