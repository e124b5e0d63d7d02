// Registers the CPU kernels and the fingerprint of the schemas they were written for.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "cpu/auditor_step.h"
#include "cpu/glm_gradient_curvature.h"
#include "cpu/glm_hvp.h"
#include "cpu/glm_hvp_multi.h"
#include "cpu/glm_mixed_vjp.h"
#include "cpu/spd_solve.h"
#include "cpu/vectors.h"

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
  m.impl("_cg_direction", TORCH_BOX(&amu_fast::cpu::cg_direction));
  m.impl("_cg_update", TORCH_BOX(&amu_fast::cpu::cg_update));
  m.impl("_neumann_step", TORCH_BOX(&amu_fast::cpu::neumann_step));
  m.impl("auditor_rows", TORCH_BOX(&amu_fast::cpu::auditor_rows));
  m.impl("auditor_step", TORCH_BOX(&amu_fast::cpu::auditor_step));
  m.impl("glm_gradient_curvature", TORCH_BOX(&amu_fast::cpu::glm_gradient_curvature));
  m.impl("glm_hvp", TORCH_BOX(&amu_fast::cpu::glm_hvp));
  m.impl("glm_hvp_multi", TORCH_BOX(&amu_fast::cpu::glm_hvp_multi));
  m.impl("glm_mixed_vjp", TORCH_BOX(&amu_fast::cpu::glm_mixed_vjp));
  m.impl("multi_dot", TORCH_BOX(&amu_fast::cpu::multi_dot));
  m.impl("spd_solve", TORCH_BOX(&amu_fast::cpu::spd_solve));
}

// An empty module: importing `amu_fast._C` runs the registrations above.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
