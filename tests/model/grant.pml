/* A tenant's grant table: one slot, its writer (the daemon), readers (the tenant's threads). src/shm/grant_table.h.
 *
 * The writer gives the slot away and takes it back, ROUNDS times: grant g (the generation) permits what its parity says, so fields of
 * two grants would show. Each field is one step; a reader may be anywhere between. The daemon may die before any of its steps.
 *
 * Claims: (1) a check that begins when a grant had ended does not accept its handle, nor by what was kept of it; (2) what is accepted
 * was the handle's own permission, whole. Broken variants: NO_RECHECK (the version is not looked at again), LATE_STORE (ending a grant
 * is told before it is stored), REUSE (a slot that is given away again keeps its generation), KEEP_LATE (what is kept is kept with
 * the number that `changes` has after the fields were taken), LATE_CHANGE (`changes` rises after the end was told), NO_CHANGE (what
 * is kept is not compared with `changes`).
 */
#ifndef ROUNDS
#define ROUNDS 3
#endif
#ifndef READERS
#define READERS 1         /* readers write nothing: one stands for all */
#endif

byte changes = 0;         /* odd while the daemon changes anything */
byte version = 0;
byte generation = 0;
byte permission = 0;      /* 1 or 2, by the generation's parity; 0 = none */
byte ended_below = 0;     /* handles up to this generation had ended, and everybody can see it */
byte given = 0;           /* the newest handle that was handed out */

#define permission_of(g) (1 + (((g) / 2) % 2))

active proctype daemon() {
  byte round = 0;
  do
  :: round == ROUNDS -> break
  :: true -> break                       /* dies here, in between */
  :: round < ROUNDS ->
     /* put_grant */
     changes = changes | 1;
     version = version | 1;
     if :: true -> goto dead :: true -> skip fi;
#ifndef REUSE
     generation = generation + 1;
#else
     generation = 1;
#endif
     if :: true -> goto dead :: true -> skip fi;
     permission = permission_of(generation);
     version = (version | 1) + 1;
     changes = (changes | 1) + 1;
     given = generation;
     /* end_grant */
#ifdef LATE_STORE
     ended_below = given;
#endif
#ifndef LATE_CHANGE
     changes = changes | 1;
     if :: true -> goto dead :: true -> skip fi;
#endif
     version = version | 1;
     generation = generation + 1;
     if :: true -> goto dead :: true -> skip fi;
     permission = 0;
     version = (version | 1) + 1;
#ifndef LATE_CHANGE
     if :: true -> goto dead :: true -> skip fi;
     changes = (changes | 1) + 1;
#endif
     ended_below = given;                /* the last store is visible: from here on nobody accepts it */
#ifdef LATE_CHANGE
     changes = changes + 2;
#endif
     round++
  od;
dead:
  skip
}

active [READERS] proctype reader() {
  byte handle, before, g, p, ended, tries, seen;
  byte kept_handle = 0, kept_permission, kept_at;
  do
  :: given != 0 ->
     handle = given;
  asked:
     ended = ended_below;                /* what had ended when this check began */
     tries = 0;
#ifndef NO_CHANGE
     seen = changes;
#else
     seen = kept_at;
#endif
     if
     :: kept_handle != 0 && seen == kept_at ->   /* accepted by what was kept */
        assert(kept_handle > ended);
        assert(kept_permission == permission_of(kept_handle));
        goto refused
     :: else -> skip
     fi;
  again:
     before = version;
     g = generation;
     p = permission;
#ifndef NO_RECHECK
     if
     :: (before & 1) != 0 || version != before ->
        tries++;
        if :: tries < 3 -> goto again :: else -> goto refused fi
     :: else -> skip
     fi;
#endif
     if
     :: g == handle && p != 0 ->         /* accepted */
        assert(handle > ended);
        assert(p == permission_of(handle));
#ifdef KEEP_LATE
        seen = changes;
#endif
#ifdef NO_CHANGE
        seen = 0;
#endif
        if
        :: (seen & 1) == 0 -> kept_handle = handle; kept_permission = p; kept_at = seen
        :: else -> skip
        fi
     :: else -> skip
     fi;
  refused:
     if
     :: goto asked                       /* the same handle once more: it may have ended */
     :: break
     fi
  od
}
