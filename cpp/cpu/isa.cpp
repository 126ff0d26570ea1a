#include "cpu/isa.h"

#include <string>

#include "core/error.h"

#if defined(QUARREL_HAVE_NEON)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace quarrel::cpu {

namespace portable {
extern const KernelTable kTable;
}
#if defined(QUARREL_HAVE_X86_SETS)
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
#endif
#if defined(QUARREL_HAVE_NEON)
namespace neon {
extern const KernelTable kTable;
}
#endif
#if defined(QUARREL_HAVE_NEON_DOTPROD)
namespace neon_dotprod {
extern const KernelTable kTable;
}
#endif

namespace {

std::vector<const KernelTable*> runnable() {
  std::vector<const KernelTable*> tables;
#if defined(QUARREL_HAVE_X86_SETS)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (avx512) tables.push_back(&avx512::kTable);
  if (avx2) tables.push_back(&avx2::kTable);
#endif
#if defined(QUARREL_HAVE_NEON)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) tables.push_back(&neon_dotprod::kTable);
  tables.push_back(&neon::kTable);
#elif defined(QUARREL_HAVE_NEON_DOTPROD)
  tables.push_back(&neon_dotprod::kTable);
#endif
  tables.push_back(&portable::kTable);
  return tables;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const auto* table : runnable()) names.emplace_back(table->name);
  return names;
}

const KernelTable& kernels_for(std::string_view name) {
  std::string known = "auto";
  for (const auto* table : runnable()) {
    if (name == "auto" || name == table->name) return *table;
    known += std::string(", ") + table->name;
  }
  throw InvalidArgument("[cpu] expected an instruction set among " + known + ", got " +
                        std::string(name));
}

}  // namespace quarrel::cpu
