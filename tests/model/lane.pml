/* One lane (src/shm/lane.h) and the writer's sleep (src/shm/lane_writer.h). The producer has a store buffer of one word for its
 * commit (x86: the load of `asleep` may pass it); membarrier empties it. The producer may be killed before each step; what
 * its buffer holds then reaches memory (a killed thread's retired stores do). The writer may be killed before each step, once:
 * another one takes over from tail and intent.
 *   slot[i]    the entry's value, 0 while it is half filled;   commit[i]  sequence + 1
 *   sink[n]    how often entry n was taken over, and whole
 * Asserted: nothing is taken twice, out of order or half filled; a slot is never overwritten before the tail passed it;
 * when the producer has ended and the writer sleeps without a bound, everything committed was taken.
 * Variants: B_EARLY the consumer reads without the commit, B_FIRST commit before fill, B_NOROOM no look at the tail,
 * B_NOBARRIER no membarrier (with the sleep unbounded), B_NOINTENT a successor starts at the tail alone.
 */
#ifndef N
#define N 4                        /* entries */
#endif
#define SLOTS 2
byte slot[SLOTS], commit[SLOTS];
byte sink[N + 1], taken;           /* taken: leaves in the sink */
byte tail;
byte asleep, rung;
byte buffered;                     /* the producer's commit that is not in memory yet: sequence + 1, 0 = none */
bool producer_over;
byte intent_on, intent_from, intent_count, intent_before;

inline drain_buffer() {
  if
  :: buffered != 0 -> commit[(buffered - 1) % SLOTS] = buffered; buffered = 0
  :: else
  fi
}

/* The control loop hears of the death (pidfd) and rings for the thread that no longer can. */
#define MAY_DIE if :: true :: atomic { drain_buffer(); producer_over = true; rung = 1; } goto dead fi

active proctype Producer() {
  byte next = 0, seen = 0;
  do
  :: next < N ->
#ifndef B_NOROOM
     do
     :: next - seen < SLOTS -> break
     :: else -> seen = tail; if :: next - seen < SLOTS -> break :: else -> if :: asleep -> rung = 1 :: else fi; tail > seen fi
     od;
#endif
     MAY_DIE;
     atomic { drain_buffer(); }
#ifdef B_FIRST
     commit[next % SLOTS] = next + 1;
     MAY_DIE;
     slot[next % SLOTS] = 0;
     slot[next % SLOTS] = next + 1;
#else
     atomic { slot[next % SLOTS] = 0; }
     MAY_DIE;
     slot[next % SLOTS] = next + 1;
     MAY_DIE;
     buffered = next + 1;          /* release: after the fill; may lie in the buffer */
#endif
     MAY_DIE;
     if :: asleep -> rung = 1 :: else fi;
     next++
  :: else -> break
  od;
  producer_over = true;
dead:
  skip
}

/* The hardware: the buffer empties at some time. */
active proctype Buffer() {
end:
  do
  :: atomic { buffered != 0 -> drain_buffer() }
  od
}

inline take(n) {
  atomic {
    assert(slot[n % SLOTS] == n + 1);   /* whole, and not overwritten */
    sink[n]++;
    assert(sink[n] == 1);
    taken++;
    assert(taken == n + 1);
  }
}

#ifdef B_EARLY
#define READY(n) (n < N && (commit[n % SLOTS] == n + 1 || slot[n % SLOTS] != (n < SLOTS -> 0 : n + 1 - SLOTS)))
#else
#define READY(n) (n < N && commit[n % SLOTS] == n + 1)
#endif

proctype Writer(bool mortal) {
  byte at, i;
  /* what the one before us had begun */
  at = tail;
#ifndef B_NOINTENT
  if
  :: intent_on ->
     at = intent_from + (taken - intent_before < intent_count -> taken - intent_before : intent_count);
     tail = at;
     intent_on = 0
  :: else
  fi;
#endif
end:
  do
  :: READY(at) ->
     atomic { intent_from = at; intent_count = 1; intent_before = taken; }
     if :: mortal -> goto killed :: true fi;
     intent_on = 1;
     if :: mortal -> goto killed :: true fi;
     take(at);
     if :: mortal -> goto killed :: true fi;
     tail = at + 1;
     if :: mortal -> goto killed :: true fi;
     intent_on = 0;
     at++
  :: !READY(at) ->
     rung = 0;
     asleep = 1;
#ifndef B_NOBARRIER
     atomic { drain_buffer(); }
#endif
     if
     :: READY(at) -> skip
     :: else ->
endsleep:
        rung                     /* FUTEX_WAIT without a bound */
     fi;
     asleep = 0
  od;
killed:
  atomic { asleep = 0; run Writer(false); }
}

init {
  run Writer(true);
  timeout ->
  /* nothing moves any more: everything committed was taken */
  if
  :: commit[taken % SLOTS] == taken + 1 -> assert(false)
  :: else
  fi
}
