// Fibres for the threads of one cluster at a time, and the operators under test on CPU tensors.
#include <torch/csrc/stable/library.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>

#include "cuda/auditor_step.h"
#include "cuda/glm_hvp_large.h"
#include "cuda/launch.h"

namespace emulated {
namespace {

constexpr size_t kStack = 1 << 15;
constexpr size_t kCanary = 256;

struct Fibre {
  ucontext_t context;
  void* place[5];
  Thread thread;
  bool started = false, done = false;
};

void* scheduler[5];
std::vector<std::unique_ptr<char[]>> stacks;
Fibre* running = nullptr;
const std::function<void()>* work = nullptr;
int64_t progress = 0;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "emulated device: %s\n", message);
  std::abort();
}

// A context only starts a fibre: its switches save the signal mask, by a system call each. The compiler's own jumps
// are no library calls that a sanitizer would follow from one stack to the other.
#define ON_TWO_STACKS __attribute__((noinline, no_sanitize("address")))

ON_TWO_STACKS void leave() { __builtin_longjmp(scheduler, 1); }

ON_TWO_STACKS void enter_again(Fibre& fibre) { __builtin_longjmp(fibre.place, 1); }

ON_TWO_STACKS void suspend() {
  if (__builtin_setjmp(running->place) == 0) leave();
}

void enter() {
  (*work)();
  running->done = true;
  ++progress;
  leave();
}

ON_TWO_STACKS void resume(Fibre& fibre) {
  running = &fibre;
  current = &fibre.thread;
  if (__builtin_setjmp(scheduler) != 0) return;
  if (running->started) enter_again(*running);
  running->started = true;
  setcontext(&running->context);
}

void prepare(Fibre& fibre, char* stack) {
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = stack;
  fibre.context.uc_stack.ss_size = kStack;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, enter, 0);
}

void prepare(Block& block, int64_t threads, int64_t shared) {
  block.shared.assign(shared + 16 + kCanary, static_cast<char>(0xff));
  block.barrier.size = threads;
  block.warps.resize((threads + 31) / 32);
  for (Warp& warp : block.warps) warp.barrier.size = 32;
}

void check_canary(Block& block, int64_t shared) {
  const char* const end = block.shared.data() + block.shared.size();
  for (const char* at = aligned(block.shared) + shared; at < end; ++at) {
    if (*at != static_cast<char>(0xff)) fail("a block wrote beyond its shared memory");
  }
}

void run_cluster(std::vector<Block>& blocks, int64_t threads, std::mt19937& random) {
  Barrier barrier;
  barrier.size = threads * static_cast<int64_t>(blocks.size());
  std::vector<Fibre> fibres(barrier.size);
  while (stacks.size() < fibres.size()) stacks.emplace_back(new char[kStack]);
  for (size_t i = 0; i < fibres.size(); ++i) {
    Thread& thread = fibres[i].thread;
    thread.index = dim3(static_cast<unsigned>(i % threads));
    thread.block = &blocks[i / threads];
    thread.cluster = &blocks;
    thread.cluster_barrier = &barrier;
    prepare(fibres[i], stacks[i].get());
  }
  std::vector<size_t> order(fibres.size());
  std::iota(order.begin(), order.end(), 0);
  for (bool alive = true; alive;) {
    alive = false;
    const int64_t before = progress;
    std::rotate(order.begin(), order.begin() + random() % order.size(), order.end());
    if (random() % 2) std::reverse(order.begin(), order.end());
    for (const size_t i : order) {
      if (fibres[i].done) continue;
      alive = true;
      resume(fibres[i]);
    }
    if (alive && progress == before) fail("threads wait at a barrier that the others never reach");
  }
}

}  // namespace

void wait(Barrier& barrier) {
  const int64_t round = barrier.round;
  ++progress;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.round;
    return;
  }
  while (barrier.round == round) suspend();
}

void run(dim3 grid, int64_t threads, int64_t shared, int64_t cluster, const std::function<void()>& body) {
  if (threads % 32 || grid.x % cluster) fail("threads in whole warps and blocks in whole clusters, please");
  if (shared > device.shared_limit) fail("more shared memory than a block may have");
  if (cluster > 1 && !device.clusters) fail("this device has no clusters");
  static std::mt19937 random(1);
  work = &body;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; x += static_cast<unsigned>(cluster)) {
      std::vector<Block> blocks(cluster);
      for (int rank = 0; rank < cluster; ++rank) {
        prepare(blocks[rank], threads, shared);
        blocks[rank].index = dim3(x + static_cast<unsigned>(rank), y);
        blocks[rank].rank = rank;
      }
      run_cluster(blocks, threads, random);
      for (Block& block : blocks) check_canary(block, shared);
    }
  }
}

}  // namespace emulated

extern "C" __attribute__((visibility("default"))) void emulate_device(int64_t multiprocessors, int64_t shared_limit,
                                                                      bool clusters) {
  emulated::device = {multiprocessors, shared_limit, clusters};
}

STABLE_TORCH_LIBRARY(amu_fast_emulated, m) {
  m.def("glm_hvp_large(Tensor x, Tensor c, Tensor v, float l2, bool intercept) -> Tensor");
  m.def("auditor_step" AMU_FAST_AUDITOR_STEP);
  m.def("auditor_rows" AMU_FAST_AUDITOR_ROWS);
}

STABLE_TORCH_LIBRARY_IMPL(amu_fast_emulated, CPU, m) {
  m.impl("glm_hvp_large", TORCH_BOX(&amu_fast::cuda::glm_hvp_large));
  m.impl("auditor_step", TORCH_BOX(&amu_fast::cuda::auditor_step));
  m.impl("auditor_rows", TORCH_BOX(&amu_fast::cuda::auditor_rows));
}
