#include "cpu/kernels/kernel_functions.h"

#define QUARREL_STRING_(x) #x
#define QUARREL_STRING(x) QUARREL_STRING_(x)

namespace quarrel::cpu::QUARREL_ISA {

// extern: a namespace-scope const would otherwise be local to this file.
extern const KernelTable kTable;
const KernelTable kTable = {
    QUARREL_STRING(QUARREL_ISA), quantize_row,   linear,   rms_norm, rope, kv_write, attention,
    attention_partition,         attention_join, silu_mul, gelu_mul, add,  scale,    softcap,
};

}  // namespace quarrel::cpu::QUARREL_ISA
