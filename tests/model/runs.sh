# shellcheck shell=sh disable=SC2154,SC2086
# The configurations, sourced by run.sh. Amounts are 1 and 2 unless -DONE; limit 2 unless -DL. A crash may fall
# before each step of each process. Quick ones first.
check "lane: killed anywhere, writer twice"      holds lane.pml
check "lane: read before the commit"             broken lane.pml -DB_EARLY
check "lane: commit before the fill"             broken lane.pml -DB_FIRST
check "lane: no look at the tail"                broken lane.pml -DB_NOROOM
check "lane: sleep without the barrier"          broken lane.pml -DB_NOBARRIER
check "lane: a successor without the intent"     broken lane.pml -DB_NOINTENT
q=quota.pml
calm="-DCRASHES=0 -DNOREAPER"
hole="-DONE -DDIP -DR0=1 -DR1=3 -DR2=3 $calm"
lower="-DGOVERN -DNEWL=1 -DONE -DR2=0 $calm"
force="-DFORCER=0 -DONE -DL=1 -DR2=0 $calm"
newcomer="-DONE -DONLY1 -DNR=2 -DCLAIM -DR0=1 -DR1=1 -DR2=0 -DR3=1"
check "2 processes, 1 crash, reaper"             holds $q -DR0=1 -DR1=1 -DR2=0 -DCRASHES=1
check "moving hole: 3 processes, 7 operations"   holds $q $hole
check "limit 2 to 1, 1 process, amounts 1-2"     holds $q -DGOVERN -DNEWL=1 -DR0=3 -DR1=0 -DR2=0 $calm
check "forced past the limit, 7 operations"      holds $q $force -DR0=3 -DR1=4
check "newcomer in a freed slot, 2 reapers"      holds $q $newcomer -DCRASHES=1
check "wishes withdrawn at any time (safety)"    holds $q -DWITHDRAW -DONE -DR0=2 -DR1=2 -DR2=0 $calm
surely="-DSURELY -DONE -DHOLD1 -DNOSLACK -DR0=1 -DR1=1 -DR2=3 $calm"
check "refused without a turn, moving hole"      holds $q -DSURELY $hole
check "refused without a turn, 1 crash, reaper"  holds $q -DSURELY -DONE -DL=1 -DR0=1 -DR1=2 -DR2=0 -DCRASHES=1
check "refused without a turn, 5 operations"     holds $q $surely
check "broken: version not compared without one" broken $q -DSURELY -DB_NOW $hole
check "broken: no version"                       broken $q -DB_NOVER $hole
check "broken: one look refuses"                 broken $q -DB_ONELOOK $hole
check "broken: W read before P"                  broken $q -DB_WP -DR0=2 -DR1=2 -DR2=0 $calm
check "broken: no t bit"                         broken $q -DB_COUNT -DR0=1 -DR1=2 -DR2=0 $calm
check "broken: slack dropped without version"    broken $q -DGOVERN -DNEWL=1 -DB_NOSWEEPVER -DR0=3 -DR1=0 -DR2=0 $calm
check "broken: turn in flight not waited for"    broken $q -DGOVERN -DNEWL=1 -DB_NOWAIT -DR0=1 -DR1=0 -DR2=0 $calm
check "broken: forced bytes become slack"        broken $q $force -DB_KEEPCAP -DR0=3 -DR1=2
check "broken: cap restored under a change"      broken $q $force -DB_EPOCH -DR0=4 -DR1=4
check "broken: slow reaper replaced"             broken $q $newcomer -DB_TAKE -DCRASHES=1
l=log.pml
check "log: data, journal, sync, sign; 1 crash"  holds $l
check "log: change of an epoch's key; 1 crash"   holds $l -DKEYS
check "log broken: signs what was appended"      broken $l -DSIGN_SIZE
check "log broken: data not synced"              broken $l -DNO_DATA
check "log broken: size taken after the sync"    broken $l -DLATE
check "log broken: old key wiped before seal"    broken $l -DKEYS -DWIPE_EARLY
check "log broken: next key stored too late"     broken $l -DKEYS -DKEY_LATE
check "grants: 3 given and ended, daemon dies"    holds grant.pml
check "broken: a grant's version looked at once" broken grant.pml -DNO_RECHECK
check "broken: a grant's end told, then stored"  broken grant.pml -DLATE_STORE
check "broken: a slot keeps its generation"      broken grant.pml -DREUSE
check "broken: a kept grant's number read late"  broken grant.pml -DKEEP_LATE
check "broken: the number rises after the word"  broken grant.pml -DLATE_CHANGE
check "broken: a kept grant is not looked up"    broken grant.pml -DNO_CHANGE
[ "$mode" = full ] || return 0
check "limit 2 to 1, slack"                      holds $q $lower -DSLACK=1 -DR0=1 -DR1=1
check "3 processes"                              holds $q -DONE -DR0=1 -DR1=1 -DR2=1 $calm
check "limit 2 to 1, 2 processes"                holds $q $lower -DSLACK=0 -DR0=1 -DR1=1
check "forced past the limit, 8 operations"      holds $q $force -DR0=4 -DR1=4
check "2 processes, slack anywhere, 1 crash"     holds $q -DSLACK=1 -DR0=1 -DR1=1 -DR2=0 -DCRASHES=1
check "2 processes, fine steps, 1 crash"         holds $q -DFINE -DR0=1 -DR1=1 -DR2=0 -DCRASHES=1
check "every run ends (1 crash or stop)"         cycle-free $q -DSTOPS -DONE -DR0=1 -DR1=1 -DR2=0 -DCRASHES=1
check "3 processes, amounts 1-2"                 holds $q -DR0=1 -DR1=1 -DR2=1 $calm
check "one process with 2 threads, 1 crash"      holds $q -DTWO -DONE -DL=1 -DR0=1 -DR1=1 -DR2=0 -DR3=1 -DCRASHES=1
check "newcomer, 2 reapers, 2 crashes"           holds $q $newcomer -DCRASHES=2
check "limit 2 to 1, slack, 4 operations"        holds $q $lower -DSLACK=1 -DR0=2 -DR1=2
check "limit 1 to 2 amid charges"                holds $q -DGOVERN -DL=1 -DNEWL=2 -DONE -DSLACK=1 -DR0=2 -DR1=1 -DR2=0 $calm
check "forced, 1 crash, reaper"                  holds $q -DFORCER=0 -DONE -DL=1 -DR0=2 -DR1=3 -DR2=0 -DCRASHES=1
check "3 processes, 1 crash, reaper"             holds $q -DONE -DR0=1 -DR1=1 -DR2=1 -DCRASHES=1
# Needs ten operations of two growers beside the refused call; not seen caught by a search yet, so no claim rests on it.
check "broken: P not compared without a turn"    broken $q -DSURELY -DB_NOP -DONE -DHOLD1 -DNOSLACK -DR0=1 -DR1=5 -DR2=5 $calm
