// The kernels' PTX. Grid-stride loops: rd1 the thread's index, rd2 the number of threads.
#include "kernels/kernels.h"

namespace bulkhead::kernels {
namespace {

constexpr char kText[] = R"PTX(.version 7.0
.target sm_70
.address_size 64

.visible .entry bh_null() {
  ret;
}

.visible .entry bh_fill(.param .u64 at, .param .u32 value, .param .u64 n) {
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<10>;
  ld.param.u64 %rd3, [at];
  ld.param.u32 %r7, [value];
  ld.param.u64 %rd4, [n];
  cvta.to.global.u64 %rd3, %rd3;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mov.u32 %r4, %nctaid.x;
  mul.wide.u32 %rd1, %r1, %r2;
  cvt.u64.u32 %rd5, %r3;
  add.u64 %rd1, %rd1, %rd5;
  mul.wide.u32 %rd2, %r2, %r4;
LOOP:
  setp.ge.u64 %p1, %rd1, %rd4;
  @%p1 bra DONE;
  shl.b64 %rd6, %rd1, 2;
  add.u64 %rd7, %rd3, %rd6;
  st.global.u32 [%rd7], %r7;
  add.u64 %rd1, %rd1, %rd2;
  bra LOOP;
DONE:
  ret;
}

.visible .entry bh_vector_add(.param .u64 c, .param .u64 a, .param .u64 b, .param .u64 n) {
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .f32 %f<4>;
  .reg .b64 %rd<14>;
  ld.param.u64 %rd3, [c];
  ld.param.u64 %rd4, [a];
  ld.param.u64 %rd5, [b];
  ld.param.u64 %rd6, [n];
  cvta.to.global.u64 %rd3, %rd3;
  cvta.to.global.u64 %rd4, %rd4;
  cvta.to.global.u64 %rd5, %rd5;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mov.u32 %r4, %nctaid.x;
  mul.wide.u32 %rd1, %r1, %r2;
  cvt.u64.u32 %rd7, %r3;
  add.u64 %rd1, %rd1, %rd7;
  mul.wide.u32 %rd2, %r2, %r4;
LOOP:
  setp.ge.u64 %p1, %rd1, %rd6;
  @%p1 bra DONE;
  shl.b64 %rd8, %rd1, 2;
  add.u64 %rd9, %rd4, %rd8;
  add.u64 %rd10, %rd5, %rd8;
  add.u64 %rd11, %rd3, %rd8;
  ld.global.f32 %f1, [%rd9];
  ld.global.f32 %f2, [%rd10];
  add.f32 %f3, %f1, %f2;
  st.global.f32 [%rd11], %f3;
  add.u64 %rd1, %rd1, %rd2;
  bra LOOP;
DONE:
  ret;
}

.visible .entry bh_saxpy(.param .u64 y, .param .u64 x, .param .f32 a, .param .u64 n) {
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .f32 %f<5>;
  .reg .b64 %rd<14>;
  ld.param.u64 %rd3, [y];
  ld.param.u64 %rd4, [x];
  ld.param.f32 %f4, [a];
  ld.param.u64 %rd6, [n];
  cvta.to.global.u64 %rd3, %rd3;
  cvta.to.global.u64 %rd4, %rd4;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mov.u32 %r4, %nctaid.x;
  mul.wide.u32 %rd1, %r1, %r2;
  cvt.u64.u32 %rd7, %r3;
  add.u64 %rd1, %rd1, %rd7;
  mul.wide.u32 %rd2, %r2, %r4;
LOOP:
  setp.ge.u64 %p1, %rd1, %rd6;
  @%p1 bra DONE;
  shl.b64 %rd8, %rd1, 2;
  add.u64 %rd9, %rd4, %rd8;
  add.u64 %rd10, %rd3, %rd8;
  ld.global.f32 %f1, [%rd9];
  ld.global.f32 %f2, [%rd10];
  fma.rn.f32 %f3, %f4, %f1, %f2;
  st.global.f32 [%rd10], %f3;
  add.u64 %rd1, %rd1, %rd2;
  bra LOOP;
DONE:
  ret;
}

.visible .entry bh_copy(.param .u64 to, .param .u64 from, .param .u64 n) {
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<12>;
  ld.param.u64 %rd3, [to];
  ld.param.u64 %rd4, [from];
  ld.param.u64 %rd6, [n];
  cvta.to.global.u64 %rd3, %rd3;
  cvta.to.global.u64 %rd4, %rd4;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mov.u32 %r4, %nctaid.x;
  mul.wide.u32 %rd1, %r1, %r2;
  cvt.u64.u32 %rd7, %r3;
  add.u64 %rd1, %rd1, %rd7;
  mul.wide.u32 %rd2, %r2, %r4;
LOOP:
  setp.ge.u64 %p1, %rd1, %rd6;
  @%p1 bra DONE;
  shl.b64 %rd8, %rd1, 2;
  add.u64 %rd9, %rd4, %rd8;
  add.u64 %rd10, %rd3, %rd8;
  ld.global.u32 %r5, [%rd9];
  st.global.u32 [%rd10], %r5;
  add.u64 %rd1, %rd1, %rd2;
  bra LOOP;
DONE:
  ret;
}

.visible .entry bh_spin(.param .u64 ns) {
  .reg .pred %p<2>;
  .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [ns];
  mov.u64 %rd2, %globaltimer;
LOOP:
  mov.u64 %rd3, %globaltimer;
  sub.u64 %rd4, %rd3, %rd2;
  setp.lt.u64 %p1, %rd4, %rd1;
  @%p1 bra LOOP;
  ret;
}

.visible .entry bh_persist(.param .u64 at) {
  .reg .pred %p<2>;
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [at];
  cvta.to.global.u64 %rd1, %rd1;
LOOP:
  ld.volatile.global.u32 %r1, [%rd1];
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra LOOP;
  ret;
}

.visible .entry bh_work(.param .u64 rounds, .param .u64 out) {
  .reg .pred %p<3>;
  .reg .b32 %r<3>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [rounds];
  ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x;
  setp.eq.u64 %p1, %rd1, 0;
  @%p1 bra DONE_WORK;
WORK:
  mad.lo.u32 %r1, %r1, 1664525, 1013904223;
  sub.u64 %rd1, %rd1, 1;
  setp.ne.u64 %p1, %rd1, 0;
  @%p1 bra WORK;
DONE_WORK:
  setp.eq.u64 %p2, %rd2, 0;
  @%p2 bra NOTHING_OUT;
  mov.u32 %r2, %tid.x;
  setp.ne.u32 %p1, %r2, 0;
  @%p1 bra NOTHING_OUT;
  st.global.u32 [%rd2], %r1;
NOTHING_OUT:
  ret;
}

.visible .entry bh_smid(.param .u64 at, .param .u64 ns) {
  .reg .pred %p<3>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [at];
  ld.param.u64 %rd4, [ns];
  cvta.to.global.u64 %rd1, %rd1;
  mov.u32 %r1, %tid.x;
  setp.ne.u32 %p1, %r1, 0;
  @%p1 bra MARKED;
  mov.u32 %r2, %smid;
  and.b32 %r3, %r2, 2047;
  shr.u32 %r4, %r3, 5;
  and.b32 %r5, %r3, 31;
  mov.u32 %r6, 1;
  shl.b32 %r7, %r6, %r5;
  mul.wide.u32 %rd2, %r4, 4;
  add.u64 %rd3, %rd1, %rd2;
  atom.global.or.b32 %r8, [%rd3], %r7;
MARKED:
  mov.u64 %rd5, %globaltimer;
LOOP:
  mov.u64 %rd6, %globaltimer;
  sub.u64 %rd7, %rd6, %rd5;
  setp.lt.u64 %p2, %rd7, %rd4;
  @%p2 bra LOOP;
  ret;
}

.visible .entry bh_fault() {
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  mov.u64 %rd1, 16;
  mov.u32 %r1, 1;
  st.global.u32 [%rd1], %r1;
  ret;
}
)PTX";

}  // namespace

const char* const kPtx = kText;

}  // namespace bulkhead::kernels
