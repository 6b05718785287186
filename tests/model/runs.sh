# The configurations, sourced by run.sh. Amounts are 1 and 2 unless -DONE; limit 2 unless -DL.
q=quota.pml
check "moving hole: 3 processes, 7 operations"  holds $q -DONE -DDIP -DR0=1 -DR1=3 -DR2=3 -DCRASHES=0 -DNOREAPER
check "broken: no version"                      broken $q -DB_NOVER -DONE -DDIP -DR0=1 -DR1=3 -DR2=3 -DCRASHES=0 -DNOREAPER
check "broken: one look refuses"                broken $q -DB_ONELOOK -DONE -DDIP -DR0=1 -DR1=3 -DR2=3 -DCRASHES=0 -DNOREAPER
check "broken: W read before P"                 broken $q -DB_WP -DR0=2 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
check "broken: no t bit"                        broken $q -DB_COUNT -DR0=1 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
check "limit 2 to 1, slack"                     holds $q -DGOVERN -DNEWL=1 -DONE -DSLACK=1 -DR0=2 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
check "broken: slack dropped without version"   broken $q -DB_NOSWEEPVER -DGOVERN -DNEWL=1 -DONE -DSLACK=1 -DR0=3 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
check "broken: turn in flight not waited for"   broken $q -DB_NOWAIT -DGOVERN -DNEWL=1 -DONE -DSLACK=1 -DR0=2 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
check "limit 1 to 2 amid charges"               holds $q -DGOVERN -DL=1 -DNEWL=2 -DONE -DSLACK=1 -DR0=2 -DR1=1 -DR2=0 -DCRASHES=0 -DNOREAPER
check "forced charges"                          holds $q -DFORCER=0 -DONE -DR0=2 -DR1=3 -DR2=0 -DCRASHES=0 -DNOREAPER
check "broken: forced bytes become slack"       broken $q -DB_KEEPCAP -DFORCER=0 -DONE -DL=1 -DR0=3 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
check "broken: cap restored under a change"     broken $q -DB_EPOCH -DFORCER=0 -DONE -DL=1 -DR0=4 -DR1=4 -DR2=0 -DCRASHES=0 -DNOREAPER
check "broken: slow reaper replaced"            broken $q -DB_TAKE -DONE -DONLY1 -DNR=2 -DCLAIM -DR0=1 -DR1=1 -DR2=0 -DR3=1 -DCRASHES=1
check "wishes withdrawn at any time (safety)"   holds $q -DWITHDRAW -DONE -DR0=2 -DR1=2 -DR2=0 -DCRASHES=0 -DNOREAPER
