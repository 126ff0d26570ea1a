// The row-wise ops of CpuExecutable: each computes some rows of its output.
#include "cpu/cpu_executable.h"
#include "cpu/cpu_step.h"
#include "cpu/packing/packed_format.h"
#include "gguf/dequantize.h"

namespace quarrel::cpu {

void CpuExecutable::apply(const EmbeddingOp& op, const Op& io, RowRange rows, const Step& step) {
  const Weight& table = program_->weight(op.table);
  const std::size_t bytes = row_bytes(table.dtype, table.n_cols);
  for (std::size_t t = rows.first; t < rows.first + rows.n; ++t) {
    const auto id = static_cast<std::size_t>(step.inputs.token_ids[t]);
    float* row = values(*io.output) + t * table.n_cols;
    gguf::dequantize_row(table.dtype, table.data.data() + id * bytes, row, table.n_cols);
    if (op.scale != 1.0f) kernels_.scale(row, row, op.scale, table.n_cols);
  }
}

void CpuExecutable::apply(const RmsNormOp& op, const Op& io, RowRange rows, const Step&) {
  const Weight& weight = program_->weight(op.weight);
  const RmsNormArgs args{values(io.inputs[0]),
                         values(*io.output),
                         weights_.floats(op.weight),
                         weight.n_cols,
                         width(*io.output) / weight.n_cols,
                         op.eps};
  kernels_.rms_norm(args, rows.first, rows.n);
}

void CpuExecutable::apply(const RopeOp& op, const Op& io, RowRange rows, const Step&) {
  const auto index = static_cast<std::size_t>(op.table.index);
  const RopeTable& table = program_->ropes[index];
  const RopeArgs args{values(io.inputs[0]), values(*io.output),
                      rope_tables_[index],  width(*io.output) / op.head_dim,
                      op.head_dim,          table.inverse_frequencies.size() * 2,
                      table.interleaved};
  kernels_.rope(args, rows.first, rows.n);
}

void CpuExecutable::apply(const KVWriteOp& op, const Op& io, RowRange rows, const Step& step) {
  const std::size_t group = program_->group_of_layer[op.layer];
  const KVWriteArgs args{values(io.inputs[0]), values(io.inputs[1]),
                         step.inputs.groups[group].slot_mapping.data(),
                         step.storage.layer(op.layer)};
  kernels_.kv_write(args, rows.first, rows.n);
}

void CpuExecutable::apply(const SiluMulOp&, const Op& io, RowRange rows, const Step&) {
  const std::size_t at = rows.first * width(*io.output);
  kernels_.silu_mul(values(io.inputs[0]) + at, values(io.inputs[1]) + at, values(*io.output) + at,
                    rows.n * width(*io.output));
}

void CpuExecutable::apply(const GeluMulOp&, const Op& io, RowRange rows, const Step&) {
  const std::size_t at = rows.first * width(*io.output);
  kernels_.gelu_mul(values(io.inputs[0]) + at, values(io.inputs[1]) + at, values(*io.output) + at,
                    rows.n * width(*io.output));
}

void CpuExecutable::apply(const AddOp& op, const Op& io, RowRange rows, const Step&) {
  const std::size_t at = rows.first * width(*io.output);
  kernels_.add(values(io.inputs[0]) + at, values(io.inputs[1]) + at, values(*io.output) + at,
               op.scale, rows.n * width(*io.output));
}

void CpuExecutable::apply(const ScaleOp& op, const Op& io, RowRange rows, const Step&) {
  const std::size_t at = rows.first * width(*io.output);
  kernels_.scale(values(io.inputs[0]) + at, values(*io.output) + at, op.factor,
                 rows.n * width(*io.output));
}

void CpuExecutable::apply(const SoftcapOp& op, const Op& io, RowRange rows, const Step&) {
  const std::size_t at = rows.first * width(*io.output);
  kernels_.softcap(values(io.inputs[0]) + at, values(*io.output) + at, op.cap,
                   rows.n * width(*io.output));
}

void CpuExecutable::quantize(const Quantization& quantization, RowRange rows) {
  const std::size_t n = width(quantization.value);
  const std::size_t bytes = quantized_row_bytes(n);
  for (std::size_t row = rows.first; row < rows.first + rows.n; ++row)
    kernels_.quantize_row(values(quantization.value) + row * n,
                          quantized_[quantization.slot].data() + row * bytes, n);
}

}  // namespace quarrel::cpu
