/* The audit log's writer: {data, journal, fsync, sign} and the change of an epoch's key, with a crash of the machine before
   each step and a kernel that writes back any cached sector at any time, in any order.
   Claims: no signed size is above what a recovery finds; after a change of keys the next start can go on, with every seal.
   Variants that must be caught: -DSIGN_SIZE signs what was appended, -DNO_DATA syncs only the journal, -DLATE takes the
   size after the sync, -DWIPE_EARLY overwrites the old key before its seal is durable, -DKEY_LATE stores the next key
   after its record. */
#ifndef N
#define N 3
#endif
bool crashed;
bool cd[N], cj[N], dd[N], dj[N];   /* batch i in data, journal: cached, on disk */
byte size, durable, durable_at, ckc, ckd; /* checkpoint's size: cached, on disk */
byte i, k, s, found;

#ifndef KEYS
active proctype writer() provided (!crashed) {
  do
  :: i < N -> cd[i] = true; cj[i] = true; atomic { size = i + 1; i++ }
  :: else -> break
  od
}
active proctype kernel() provided (!crashed) {
  do
  :: atomic { cd[0] && !dd[0] -> dd[0] = true }
  :: atomic { cj[0] && !dj[0] -> dj[0] = true }
  :: atomic { cd[1] && !dd[1] -> dd[1] = true }
  :: atomic { cj[1] && !dj[1] -> dj[1] = true }
  :: atomic { cd[2] && !dd[2] -> dd[2] = true }
  :: atomic { cj[2] && !dj[2] -> dj[2] = true }
  :: atomic { ckc > ckd -> ckd = ckc }
  od
}
active proctype signer() provided (!crashed) {
  do
  :: durable < N ->
     s = size;
#ifndef NO_DATA
     atomic { k = 0; do :: k < N -> dd[k] = dd[k] || cd[k]; k++ :: else -> break od; k = 0 }
#endif
     atomic { k = 0; do :: k < N -> dj[k] = dj[k] || cj[k]; k++ :: else -> break od; k = 0 }
#ifdef LATE
     durable = size;
#else
     durable = s;
#endif
#ifdef SIGN_SIZE
     ckc = size;
#else
     ckc = durable;
#endif
     ckd = ckc
  :: else -> break
  od
}
active proctype crash() {
  atomic {
    crashed = true; found = 0;
    do :: found < N && dd[found] && dj[found] -> found++ :: else -> break od;
    assert(ckd <= found)   /* a signed size that recovery does not find */
  }
}
#else
/* One change of keys. rec: the key's record is a leaf: cached, on disk. seal: the old epoch's last checkpoint. */
bool next_d, rec_c, rec_d, seal_c, seal_d, renamed, wiped, survives;
active proctype change() provided (!crashed) {
#ifndef KEY_LATE
  next_d = true;
#endif
  rec_c = true;
  rec_d = true;
#ifdef KEY_LATE
  next_d = true;
#endif
#ifdef WIPE_EARLY
  wiped = true;
#endif
  seal_c = true;
  seal_d = true;
  renamed = true;
  wiped = true
}
active proctype kernel() provided (!crashed) {
  do
  :: atomic { rec_c && !rec_d -> rec_d = true }
  :: atomic { seal_c && !seal_d -> seal_d = true }
  od
}
active proctype crash() {
  atomic {
    crashed = true; survives = rec_d;
    /* the key of the last record is on disk, and its predecessor's seal exists or can still be signed */
    assert(!survives || renamed || next_d);
    assert(!survives || seal_d || !wiped);
    assert(!renamed || seal_d)
  }
}
#endif
