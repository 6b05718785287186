/* Memory admission (src/shm/quota.h): one turn word G helped by all; per slot W, P, N; cap with its epoch; reapers.
 * A process may be killed or stopped before each step (the provided clauses). Ghosts hold what was promised:
 *   H         what is held: used of all slots + grants decided and not yet moved
 *   sat[t]    thread t's present call has had a moment at which H + n was over the limit
 *   forcing   a forced charge has changed the books and has not dropped all slack yet
 * Asserted: H <= the limit at every grant (unless `forcing`); a refusal has had its moment; at the end every thread
 * that may still run has finished, and a reaped slot is zero with P idle. Run by run.sh, which lists the variants.
 * W = {used 3, slack 3, version 2, t 1}; P = {phase 2, seq}; G = {slot + 1 : 2, seq}; cap = {on 1, epoch}.
 */
#ifndef L
#define L 2                      /* the limit */
#endif
#ifndef NEWL
#define NEWL L                   /* the limit a governor sets */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifdef ONE
#define NPICK n=1
#else
#define NPICK if :: n=1 :: n=2 fi
#endif
#ifndef SLACK
#define SLACK 0                  /* initial slack, spread in every way */
#endif
#ifdef NOSLACK
#define KEEP 0                   /* as give_back_slow(): no slack is kept */
#else
#define KEEP (cap&1)
#endif
#ifndef NR
#define NR 1                     /* reapers */
#endif
#ifdef B_NOVER
#define BUMP V(w)                /* broken: a fast charge leaves no trace */
#else
#define BUMP (V(w)+1)
#endif
#ifdef B_NOSWEEPVER
#define SWEEPBUMP V(W[j])        /* broken: a give_back begun before slack was dropped leaves slack after it */
#else
#define SWEEPBUMP (V(W[j])+1)
#endif
#ifdef B_TAKE
#define TAKEOVER(x) 1            /* broken: a reaper is replaced because it is slow */
#else
#define TAKEOVER(x) rdead[x]
#endif
#ifdef B_COUNT
#define COUNT(p,w) (PH(p)==YES)  /* broken: no t bit, a grant is counted until the owner clears P */
#else
#define COUNT(p,w) UNMOVED(p,w)
#endif
#ifdef B_WP
#define RECHECK(a,b) 1           /* broken: W is read before P, and P not again */
#else
#define RECHECK(a,b) (a==b)
#endif
#ifdef FINE
#define GRP                      /* every load and CAS is a step of its own */
#else
#define GRP atomic               /* a CAS loop that succeeded, a P-W-P read that agreed: one step */
#endif
#ifdef GOVERN
#define GIVE                     /* the race of give_back with a dropped cap needs its steps apart */
#else
#define GIVE GRP
#endif
#define U(w) ((w)&7)
#define K(w) (((w)>>3)&7)
#define V(w) (((w)>>6)&3)
#define T(w) (((w)>>8)&1)
#define MK(u,k,v,t) ((u)|((k)<<3)|(((v)&3)<<6)|((t)<<8))
#define IDLE 0
#define WISH 1
#define YES 2
#define NO 3
#define PH(p) ((p)&3)
#define SEQ(p) ((p)>>2)
#define PK(ph,s) ((ph)|((s)<<2))
#define UNMOVED(p,w) (PH(p)==YES && T(w)!=(SEQ(p)&1))
short W[3]; byte P[3], N[3], G, S[3], own[3];    /* S: 0 free, 1 live, 2+r reaping by r; own: process */
bool dead[4], stop[4], lock[4], rdead[2]; byte crashes;   /* lock: private to the process */
byte cap=1, Lim=L;
byte H, need[4], mine[4]; bool sat[4], fin[4], forcing[4], lowered;   /* ghosts */
#define FORCING (forcing[0]||forcing[1]||forcing[2]||forcing[3])
inline look() { sat[0]=sat[0]||(H+need[0]>Lim); sat[1]=sat[1]||(H+need[1]>Lim);
                sat[2]=sat[2]||(H+need[2]>Lim); sat[3]=sat[3]||(H+need[3]>Lim) }
inline up(x)  { H=H+x; assert(FORCING || H<=(lowered->NEWL:(L>NEWL->L:NEWL))); look() }
/* Slack may be kept again if the books fit. Uses j, C, x, w, d, lim, s of its caller. */
inline settle() {
  s=cap; lim=Lim; j=0; C=0;
  do
  :: (s&1)==0 && j<3 ->
     GRP { x=P[j]; atomic { d=N[j]; w=W[j] };
     atomic { if :: P[j]==x -> C=C+U(w)+K(w)+(UNMOVED(x,w)->d:0); j++ :: else fi; x=0; w=0; d=0 } }
  :: else -> break
  od;
  atomic { if
#ifdef B_EPOCH
     :: (s&1)==0 && C<=lim -> cap=cap|1               /* broken: the cap comes back under another's change */
#else
     :: (s&1)==0 && C<=lim && cap==s -> cap=s|1
#endif
     :: else fi; s=0; j=0; C=0; lim=0 }
}

proctype thread(byte id; byte me; byte pr; byte rounds) provided (!dead[pr] && !stop[pr]) {
  byte n, g, p, i, j, C, Hs, nn, x, d, lim, nx, s; bool seen, same, force; byte vv[3]; short w;
#ifdef SURELY
  byte vp[3];
#endif
  if :: me==3 -> if                                   /* claim a slot that the reaper freed */
       :: atomic { S[1]==0 -> S[1]=1; own[1]=pr; me=1 }
       :: atomic { S[2]==0 -> S[2]=1; own[2]=pr; me=2 }
       fi
  :: else fi;
next:
  if
  :: rounds==0 -> goto end
  :: rounds>0 && mine[id]>0 ->                        /* give_back; slack stays if the cap is on */
     do
     :: GIVE { w=W[me]; x=KEEP; atomic { if
        :: W[me]==w -> d=mine[id]; W[me]=MK(U(w)-d,(x->K(w)+d:K(w)),V(w),T(w));
           H=H-d; mine[id]=0; w=0; d=0; x=0; rounds--; goto next
        :: else -> w=0; x=0 fi } }
     od
  :: rounds>0 && mine[id]==0 ->
     atomic { rounds--; NPICK; need[id]=n; sat[id]=(H+n>Lim) }
  fi;
fast: GRP { w=W[me];
  if :: K(w)>=n -> atomic { if
        :: W[me]==w -> W[me]=MK(U(w)+n,K(w)-n,BUMP,T(w)); up(n); mine[id]=n; w=0; goto got
        :: else -> w=0; goto fast fi }
     :: else -> w=0
  fi };
#ifdef SURELY
  if                                                  /* surely_full(): two collects without a turn, on a hint */
  :: skip -> goto slow
  :: atomic { skip; j=0; Hs=0; same=1 }
  fi;
  do                                                  /* vp: P, vv: version and t of the first collect; 8: holds nothing */
  :: j<3 -> x=P[j];
     atomic { w=W[j]; vp[j]=x; vv[j]=(U(w)==0->8:V(w)|(T(w)<<2)); j++; w=0; x=0 }
  :: else -> break
  od;
  atomic { lim=Lim; j=0 }
  do
  :: j<3 && vv[j]==8 -> j++
  :: j<3 && vv[j]!=8 && same -> w=W[j];
     atomic { x=P[j];
       if
#ifdef B_NOP
       :: vv[j]==(V(w)|(T(w)<<2)) -> Hs=Hs+U(w)       /* broken: P is not compared */
#elif defined(B_NOW)
       :: vp[j]==x -> Hs=Hs+U(w)                      /* broken: W's version is not compared */
#else
       :: vp[j]==x && vv[j]==(V(w)|(T(w)<<2)) -> Hs=Hs+U(w)
#endif
       :: else -> same=0
       fi; j++; w=0; x=0 }
  :: else -> break
  od;
  atomic { if :: same && Hs+n>lim -> assert(sat[id]); d=1 :: else -> d=0 fi;   /* exactness */
           j=0; Hs=0; same=0; lim=0; vv[0]=0; vv[1]=0; vv[2]=0; vp[0]=0; vp[1]=0; vp[2]=0 }
  if :: atomic { d==1 -> d=0 } goto got :: else fi;
slow:
#endif
  atomic { !lock[pr] -> lock[pr]=1; N[me]=n }
  atomic { d=SEQ(P[me])+1; if :: (d&1)==T(W[me]) -> d++ :: else fi; P[me]=PK(WISH,d); d=0 }
grow:
#ifdef WITHDRAW
  if                                                  /* the budget ran out, at any time: safety only */
  :: atomic { PH(P[me])==WISH -> P[me]=PK(NO,SEQ(P[me])); sat[id]=1 }
  :: skip
  fi;
#endif
  GRP { p=P[me];
  if :: PH(p)!=WISH -> goto decided :: else fi;
  g=G };
  if :: g==0 -> atomic { if :: G==0 -> G=(me+1)|(SEQ(p)<<2) :: else fi; g=0; p=0 }
        goto grow
     :: else
  fi;
help:
  atomic { i=(g&3)-1; p=PK(WISH,g>>2); nx=0; if :: P[i]!=p -> goto release :: else -> nn=N[i] fi }
collect:
  atomic { if :: P[i]!=p -> goto release :: else fi;  /* somebody else decided */
           C=0; Hs=0; j=0; nx=0; same=seen; lim=Lim }
  do
  :: j<3 ->
#ifdef B_WP
     w=W[j]; x=P[j]; d=N[j];
#else
     GRP { x=P[j]; atomic { d=N[j]; w=W[j] }
#endif
     atomic { if
       :: RECHECK(P[j],x) ->
          if :: PH(x)==WISH && j!=i && (nx==0 || (j>i && (nx&3)<i+1)) -> nx=(j+1)|(SEQ(x)<<2) :: else fi;
          if :: !COUNT(x,w) -> d=0 :: else fi;
          C=C+U(w)+K(w)+d; Hs=Hs+U(w)+d; same=same&&(vv[j]==V(w)); vv[j]=V(w); j++
       :: else fi; w=0; d=0; x=0 }
#ifndef B_WP
     }
#endif
  :: else -> break
  od;
  if
  :: atomic { C+nn<=lim -> d=YES; goto decide }
#ifdef B_ONELOOK
  :: atomic { Hs+nn>lim -> d=NO; goto decide }        /* broken: one look is enough to refuse */
#endif
  :: atomic { C+nn>lim && seen && same && Hs+nn>lim -> d=NO; goto decide }
  :: atomic { C+nn>lim && Hs+nn>lim && !(seen && same) -> seen=1; C=0; Hs=0 } goto collect   /* a gentle round */
  :: atomic { C+nn>lim && !(seen && same && Hs+nn>lim) -> seen=1; x=C+nn-lim; j=0; C=0; Hs=0 }
  fi;
  do
  :: j<3 ->
steal: GRP { w=W[j];
     atomic { if
       :: W[j]!=w -> goto steal
       :: else -> d=(K(w)<x->K(w):x); W[j]=MK(U(w),K(w)-d,V(w),T(w)); x=x-d; j++; w=0; d=0
       fi } }
     if :: atomic { x==0 -> d=YES; goto decide } :: else fi
  :: else -> goto collect
  od;
decide:
  atomic { if :: P[i]==p -> P[i]=PK(d,SEQ(p)); if :: d==YES -> up(nn) :: else fi :: else fi }
release:
  atomic { if :: G==g -> G=nx :: else fi;             /* handed to the next wish in slot order */
           g=0; i=0; p=0; j=0; C=0; Hs=0; x=0; w=0; d=0; seen=0; same=0; lim=0; nn=0; nx=0; vv[0]=0; vv[1]=0; vv[2]=0 }
#ifdef FORCER
  if :: force -> goto forced :: else -> goto grow fi;
#else
  goto grow;
#endif
decided:
  if
  :: PH(p)==YES ->
     atomic { W[me]=MK(U(W[me])+n,K(W[me]),V(W[me]),1-T(W[me])) }       /* one fetch_add */
     P[me]=PK(IDLE,SEQ(p)); atomic { mine[id]=n; p=0 }
     if :: (cap&1)==0 -> settle() :: else fi;
     lock[pr]=0
  :: else ->
     atomic { assert(sat[id]) }                       /* exactness */
     P[me]=PK(IDLE,SEQ(p));
#ifdef FORCER
     if
     :: id==FORCER ->                                 /* a forced charge: booked all the same */
        atomic { W[me]=MK(U(W[me])+n,K(W[me]),V(W[me])+1,T(W[me])); H=H+n; look(); mine[id]=n; forcing[id]=1; p=0; lock[pr]=0; force=1 }
#ifdef B_KEEPCAP
        goto forced;                                  /* broken: forced bytes come back as slack */
#endif
        atomic { cap=((cap>>1)+1)<<1; j=0 }
        do
        :: j<3 -> atomic { W[j]=MK(U(W[j]),0,SWEEPBUMP,T(W[j])); j++ }
        :: else -> break
        od;
        atomic { j=0; g=G }
        if :: g!=0 -> goto help :: else fi;
forced: atomic { force=0; forcing[id]=0 }
        settle()
     :: else -> atomic { p=0; lock[pr]=0 }
     fi
#else
     atomic { p=0; lock[pr]=0 }
#endif
  fi;
got: atomic { need[id]=0; sat[id]=0; n=0 }
  goto next;
end: fin[id]=1
}
proctype reaper(byte id) provided (!rdead[id]) {
  byte j, p;
  do
  :: atomic { S[0]==1 && dead[own[0]] -> S[0]=2+id; j=0 } goto wipe
  :: atomic { S[1]==1 && dead[own[1]] -> S[1]=2+id; j=1 } goto wipe
  :: atomic { S[2]==1 && dead[own[2]] -> S[2]=2+id; j=2 } goto wipe
  :: atomic { S[1]==3-id && TAKEOVER(1-id) -> S[1]=2+id; j=1 } goto wipe
  :: atomic { S[0]==3-id && TAKEOVER(1-id) -> S[0]=2+id; j=0 } goto wipe
  :: atomic { S[2]==3-id && TAKEOVER(1-id) -> S[2]=2+id; j=2 }
wipe: p=P[j];
     atomic { if :: UNMOVED(P[j],W[j]) -> H=H-N[j] :: else fi; P[j]=PK(IDLE,SEQ(p)+1); p=0 }
     atomic { H=H-U(W[j]); W[j]=0; forcing[own[j]]=0 }
     atomic { if :: S[j]==2+id -> S[j]=0 :: else fi; j=0 }
  od
}
/* set_limit: the limit first, then the cap under a new epoch, then every slack, then the turn in flight. */
proctype governor() { byte j, g, s, C, x, d, lim; short w;
  if :: NEWL<L ->
     atomic { Lim=NEWL; look() }
     atomic { cap=((cap>>1)+1)<<1 }
     do
     :: j<3 -> atomic { W[j]=MK(U(W[j]),0,SWEEPBUMP,T(W[j])); j++ }
     :: else -> break
     od;
     g=G;
#ifndef B_NOWAIT
     (g==0 || G!=g);                                  /* in code: help(g) */
#endif
     atomic { lowered=1; g=0; j=0 }
  :: else -> atomic { Lim=NEWL; look() }
  fi;
  settle()
}
proctype faults() {
  do
  :: atomic { crashes<CRASHES -> crashes++; if :: dead[1]=1
#ifndef ONLY1
       :: dead[0]=1 :: dead[2]=1
#endif
#if NR==2
       :: rdead[0]=1
#endif
#ifdef STOPS
       :: stop[0]=1 :: stop[1]=1 :: stop[2]=1
#endif
     fi }
  :: else -> break
  od
}
#define OK(id,pr) (fin[id] || dead[pr] || stop[pr])
init { byte m;
  atomic { own[0]=0; own[1]=1; own[2]=2; S[0]=1; S[1]=1; S[2]=1;
#ifdef DIP                              /* slot 1 holds 1, slot 2 has slack 1 */
    W[1]=1; mine[1]=1; H=1; W[2]=8;
#elif defined(HOLD1)                    /* slot 1 holds 1 */
    W[1]=1; mine[1]=1; H=1;
#else                                   /* any slack within the limit */
    m=0; do :: m<3 -> if :: K(W[0])+K(W[1])+K(W[2])<SLACK -> W[m]=W[m]+8 :: m++ fi :: else -> break od; m=0;
#endif
    run thread(0,0,0,R0);
    run thread(1,1,1,R1);
    run thread(2,2,2,R2);
#ifdef TWO
    run thread(3,0,0,R3);
#endif
#ifdef CLAIM
    run thread(3,3,3,R3);
#endif
#ifndef NOREAPER
    run reaper(0);
#endif
#if NR==2
    run reaper(1);
#endif
#ifdef GOVERN
    run governor();
#endif
    run faults() }
  timeout ->
    assert(OK(0,0) && OK(1,1) && OK(2,2));
#ifdef TWO
    assert(OK(3,0));
#endif
#ifndef NOREAPER
    assert(S[0]!=1 || !dead[own[0]]); assert(S[1]!=1 || !dead[own[1]]); assert(S[2]!=1 || !dead[own[2]]);
    assert(S[0]!=0 || ((W[0]&63)==0 && PH(P[0])==IDLE)); assert(S[1]!=0 || ((W[1]&63)==0 && PH(P[1])==IDLE));
    assert(S[2]!=0 || ((W[2]&63)==0 && PH(P[2])==IDLE)); assert(S[0]<2 && S[1]<2 && S[2]<2)
#endif
}
