// A device in the computer's own memory, under the key that torch-directml uses and with its operators: what is in the
// list of its kernels is computed here, by the CPU behind the scenes; what is not takes DirectML's own way, a warning
// and the CPU, or is refused where STANDIN_LACKS names it. Tensors of two devices in one operator fail as on any card.

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_copy_from_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <string>

namespace {

constexpr auto KEY = c10::DispatchKey::PrivateUse1;
const c10::Device HERE(c10::DeviceType::PrivateUse1, 0);

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::malloc(bytes) : nullptr;
    return {data, data, &std::free, HERE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};
Memory memory;

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(KEY), dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(KEY), dtype.value_or(at::kFloat));
}

// The same memory as the CPU sees it.
at::Tensor seen(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (to.numel()) seen(to).copy_(seen(from));
  return to;
}

const at::Tensor& resize(const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* inner = tensor.unsafeGetTensorImpl();
  inner->set_sizes_contiguous(size);
  const size_t bytes = at::detail::computeStorageNbytesContiguous(size, tensor.itemsize(), tensor.storage_offset());
  auto* storage = inner->unsafe_storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) at::native::resize_bytes_cpu(storage, bytes);
  return tensor;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) resize(to, from.sizes(), std::nullopt);  // else its strides are not to change
  return copy_from(from, to, false);
}

// The vision tower is frozen, so that its convolution needs no way back.
at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_padding, int64_t groups) {
  std::optional<at::Tensor> added;
  if (bias && bias->defined()) added = seen(*bias);
  return at::convolution(seen(input), seen(weight), added, stride, padding, dilation, transposed, output_padding, groups)
      .to(HERE);
}

std::string name_of(const c10::OperatorHandle& op) {
  const auto& name = op.operator_name();
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

void refuse_what_lacks(const c10::OperatorHandle& op) {
  const char* lacks = std::getenv("STANDIN_LACKS");
  TORCH_CHECK_NOT_IMPLEMENTED(!lacks || name_of(op) != lacks, "Could not run '", name_of(op),
                              "' with arguments from the 'PrivateUse1' backend.");
}

void on_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  refuse_what_lacks(op);
  at::native::cpu_fallback(op, stack);
}

void elsewhere(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static std::set<std::string> told;
  refuse_what_lacks(op);
  if (told.insert(name_of(op)).second)
    TORCH_WARN("The operator '", name_of(op), "' is not currently supported on the DML backend and will fall back to run on "
               "the CPU. This may have performance implications.");
  at::native::cpu_fallback(op, stack);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return HERE.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return HERE; }
  c10::Device getDevice() const override { return HERE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, HERE); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(HERE); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  // Newer torch asks these too.
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  c10::DeviceIndex deviceCount() const { return 1; }
  c10::DeviceIndex getCurrentDevice() const { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const { return 0; }
};
const bool hooked = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);  // torch keeps it to the end

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&elsewhere>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  // Memory and views; what DirectML has under these names besides follows from them.
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("resize_", &resize);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("alias", &at::native::alias);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("convolution_overrideable", &convolution);
  std::ifstream names(std::getenv("STANDIN_OPERATORS"));
  for (std::string name; std::getline(names, name);)
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&on_device>());
}

}  // namespace
