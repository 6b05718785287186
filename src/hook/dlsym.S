// dlsym and dlvsym as the program finds them, x86-64 System V. A name that is not cu[A-Z]*, nvml* or nccl*
// goes on by a jump, so that the real one still sees its caller's return address: it decides what
// RTLD_NEXT and RTLD_DEFAULT mean. Every register an argument may lie in is left as it came.
//
// On arm64 the same is: arguments x0-x2, scratch x16/x17, `br x16` for the jump, x30 for the
// caller. It is not written, for it has not been run.
#if !defined(__x86_64__)
#error "the doors are written for x86-64"
#endif
        .text

// FUNC name, the real one's word, the C function for our names, the register for the caller
.macro DOOR name, real, ours, caller
        .globl  \name
        .type   \name, @function
        .p2align 4
\name:
        .cfi_startproc
        endbr64
        test    %rsi, %rsi
        jz      1f
        cmpb    $'c', (%rsi)            // byte by byte: a name may end at the end of a page
        jne     3f
        cmpb    $'u', 1(%rsi)
        jne     1f
        movzbl  2(%rsi), %eax
        sub     $'A', %eax
        cmp     $25, %eax
        ja      1f
2:      mov     (%rsp), \caller
        jmp     \ours
3:      cmpb    $'n', (%rsi)
        jne     1f
        cmpb    $'v', 1(%rsi)
        jne     6f
        cmpb    $'m', 2(%rsi)
        jne     1f
        cmpb    $'l', 3(%rsi)
        je      2b
        jmp     1f
6:      cmpb    $'c', 1(%rsi)
        jne     1f
        cmpb    $'c', 2(%rsi)
        jne     1f
        cmpb    $'l', 3(%rsi)
        je      2b
1:      mov     \real(%rip), %rax
        test    %rax, %rax
        jz      4f
        jmp     *%rax
4:      push    %rdi
        .cfi_adjust_cfa_offset 8
        push    %rsi
        .cfi_adjust_cfa_offset 8
        push    %rdx
        .cfi_adjust_cfa_offset 8
        call    bh_find_loader
        pop     %rdx
        .cfi_adjust_cfa_offset -8
        pop     %rsi
        .cfi_adjust_cfa_offset -8
        pop     %rdi
        .cfi_adjust_cfa_offset -8
        mov     \real(%rip), %rax
        test    %rax, %rax
        jz      5f
        jmp     *%rax
5:      ret                             // no real one: null, in rax already
        .cfi_endproc
        .size   \name, . - \name
.endm

DOOR dlsym, bh_dlsym_real, bh_dlsym, %rdx
DOOR dlvsym, bh_dlvsym_real, bh_dlvsym, %rcx

        .hidden bh_dlsym_real
        .hidden bh_dlvsym_real
        .hidden bh_find_loader
        .hidden bh_dlsym
        .hidden bh_dlvsym
        .section .note.GNU-stack, "", @progbits
