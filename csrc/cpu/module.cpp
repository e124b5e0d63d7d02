// Registers the CPU kernels and the fingerprint of the schemas they were written for.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "cpu/auditor_step.h"
#include "cpu/glm_hvp.h"

#define AMU_FAST_STRING_(name) #name
#define AMU_FAST_STRING(name) AMU_FAST_STRING_(name)

namespace {

void schemas_marker() {}

}  // namespace

// `amu_fast/backends.py` looks for this operator: its name is a hash of amu_fast/ops/schemas.py.
STABLE_TORCH_LIBRARY_FRAGMENT(amu_fast, m) { m.def(AMU_FAST_STRING(AMU_FAST_SCHEMAS) "() -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(amu_fast, CompositeExplicitAutograd, m) {
  m.impl(AMU_FAST_STRING(AMU_FAST_SCHEMAS), TORCH_BOX(&schemas_marker));
}

STABLE_TORCH_LIBRARY_IMPL(amu_fast, CPU, m) {
  m.impl("auditor_rows", TORCH_BOX(&amu_fast::cpu::auditor_rows));
  m.impl("auditor_step", TORCH_BOX(&amu_fast::cpu::auditor_step));
  m.impl("glm_hvp", TORCH_BOX(&amu_fast::cpu::glm_hvp));
}

// An empty module: importing `amu_fast._C` runs the registrations above.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
