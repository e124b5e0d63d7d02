// Registers the CUDA kernels and the fingerprint of the schemas they were written for.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "cuda/auditor_step.h"
#include "cuda/glm_hvp_large.h"

#define AMU_FAST_STRING_(name) #name
#define AMU_FAST_STRING(name) AMU_FAST_STRING_(name)

namespace {

void schemas_marker() {}

}  // namespace

// `cuda_schemas_<hash>`: as the CPU library's marker, under a name of its own. Operators that only this library has
// are private to the launchers that call them.
STABLE_TORCH_LIBRARY_FRAGMENT(amu_fast, m) {
  m.def("cuda_" AMU_FAST_STRING(AMU_FAST_SCHEMAS) "() -> ()");
  m.def("_glm_hvp_large(Tensor x, Tensor c, Tensor v, float l2, bool intercept) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(amu_fast, CompositeExplicitAutograd, m) {
  m.impl("cuda_" AMU_FAST_STRING(AMU_FAST_SCHEMAS), TORCH_BOX(&schemas_marker));
}

STABLE_TORCH_LIBRARY_IMPL(amu_fast, CUDA, m) {
  m.impl("_glm_hvp_large", TORCH_BOX(&amu_fast::cuda::glm_hvp_large));
  m.impl("auditor_rows", TORCH_BOX(&amu_fast::cuda::auditor_rows));
  m.impl("auditor_step", TORCH_BOX(&amu_fast::cuda::auditor_step));
}

// An empty module: importing `amu_fast._C_cuda` runs the registrations above.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
