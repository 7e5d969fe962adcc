# A guest that goes through every mode of the processor and writes one letter to port 0xe9 at each stop:
#
#   R real mode            P 32-bit protected      i interrupt gate       u ring 3 and back by INT
#   v virtual-8086         g call gate, parameter  t task switch and IRET A PAE paging
#   L long, compatibility  X 64-bit                s SYSCALL and SYSRET   c ring 3 in compatibility mode
#   f page fault on an IST stack                   d double fault         . done
#
# then shuts down by a triple fault. A wrong turn writes '!' and halts. Loaded at 0x8000, entered in real mode.

        .set    BASE, 0x8000
        .set    TSS_B, 0x6200           # the second task
        .set    PAGES, 0x40000          # page tables

        .macro  put letter
        movb    $\letter, %al
        outb    %al, $0xe9
        .endm

        .text
        .code16
        .globl  _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7000, %sp
        put     'R'
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $0x08, $protected

# ---------------------------------------------------------------- 32-bit protected mode
        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0x7000, %esp
        put     'P'
        lidtl   idt32_pointer
        int     $0x40                   # writes 'i'
        movw    $0x28, %ax
        ltrw    %ax

        movl    $ring3, %ebx            # to ring 3 by IRET
        pushl   $0x23
        pushl   $0x6800
        pushfl
        pushl   $0x1b
        pushl   %ebx
        iretl
ring3:  int     $0x41                   # writes 'u', comes back in ring 0 at after_ring3
        jmp     wrong32

int40:  put     'i'
        iretl
int41:  put     'u'
        addl    $20, %esp
        jmp     after_ring3

after_ring3:
        movw    $0x10, %ax
        movw    %ax, %ds
        pushl   $0                      # GS, FS, DS, ES for virtual-8086 mode
        pushl   $0
        pushl   $0
        pushl   $0
        pushl   $0x600                  # SS:SP
        pushl   $0x0f00
        pushl   $0x23002                # VM, IOPL 3
        pushl   $(BASE >> 4)
        pushl   $(v8086 - BASE)
        iretl
        .code16
v8086:  put     'v'
        int     $0x42
        .code32
int42:  addl    $36, %esp               # the nine-word frame
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es

        pushl   $0x23                   # to ring 3 again, then in through a call gate with a parameter
        pushl   $0x6800
        pushfl
        pushl   $0x1b
        pushl   $gate_caller
        iretl
gate_caller:
        pushl   $'g'
        lcall   $0x33, $0
        int     $0x43
gate_target:
        movl    8(%esp), %eax           # the parameter, copied
        outb    %al, $0xe9
        lretl   $4
int43:  cmpl    $0x6800, 12(%esp)       # RETF 4 released it on both stacks
        jne     wrong32
        addl    $20, %esp
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es

        movl    $TSS_B, %edi            # the second task: a copy of what we need
        movl    $task_b, 0x20(%edi)
        movl    $2, 0x24(%edi)
        movl    $0x6600, 0x38(%edi)
        movw    $0x08, 0x4c(%edi)
        movw    $0x10, 0x50(%edi)
        movw    $0x10, 0x54(%edi)
        movl    $0x1234, %esi
        lcall   $0x38, $0
        cmpl    $0x1234, %esi
        jne     wrong32
        clts
        jmp     paging
task_b: xorl    %esi, %esi
        put     't'
        iretl

paging: movl    $PAGES, %edi            # PAE: one directory of 2 MiB pages
        xorl    %eax, %eax
        movl    $0x3000 / 4, %ecx
        rep stosl
        movl    $(PAGES + 0x1001), PAGES
        movl    $0x87, PAGES + 0x1000
        movl    $PAGES, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $0x20, %eax
        movl    %eax, %cr4
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        put     'A'
        movl    %cr0, %eax
        andl    $0x7fffffff, %eax
        movl    %eax, %cr0

        movl    $(PAGES + 0x1007), PAGES        # long mode: one more level
        movl    $(PAGES + 0x2007), PAGES + 0x1000
        movl    $0x87, PAGES + 0x2000
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x101, %eax            # SCE, LME
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        put     'L'
        ljmpl   $0x40, $long_mode
wrong32:
        put     '!'
        hlt

# ---------------------------------------------------------------- 64-bit mode
        .code64
long_mode:
        put     'X'
        movl    $0x7000, %esp
        lidtq   idt64_pointer
        movw    $0x58, %ax
        ltrw    %ax
        movl    $0xc0000081, %ecx       # STAR: SYSRET 0x1b (32), 0x2b (64); SYSCALL 0x40
        xorl    %eax, %eax
        movl    $0x00630040, %edx
        wrmsr
        movl    $0xc0000082, %ecx       # LSTAR
        movl    $syscall_entry, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $user64, %ecx
        movl    $2, %r11d
        sysretq
user64: syscall
        pushq   $0x6b                   # ring 3 to compatibility mode
        pushq   $0x6800
        pushfq
        pushq   $0x1b
        pushq   $user32
        iretq
syscall_entry:
        put     's'
        sysretq
        .code32
user32: int     $0x41                   # writes 'c'
        .code64
int41_64:
        put     'c'
        movl    $after_fault, %ebx
        movabsq 0x12345678000, %rax     # not mapped: #PF on its own stack
        put     '!'
page_fault:
        movq    %cr2, %rcx
        movabsq $0x12345678000, %rdx
        cmpq    %rdx, %rcx
        jne     wrong64
        leaq    -0x3900(%rsp), %rdx     # IST 1 starts at 0x3900; six words were pushed
        cmpq    $-48, %rdx
        jne     wrong64
        put     'f'
        addq    $8, %rsp
        movq    %rbx, (%rsp)
        iretq
after_fault:
        movw    $0x4b, %ax              # no gate for #GP: #DF
        movw    %ax, %ds
        put     '!'
double_fault:
        put     'd'
        put     '.'
        lidtq   no_idt
        int3                            # no gate for anything: shutdown
wrong64:
        put     '!'
        hlt

# ---------------------------------------------------------------- tables
        .balign 16
        .macro  segment base, limit, access, flags
        .word   \limit & 0xffff, \base        # below 64 KiB
        .byte   0, \access, (\limit >> 16) | (\flags << 4), 0
        .endm
gdt:    .quad   0
        segment 0, 0xfffff, 0x9a, 0xc           # 08 code
        segment 0, 0xfffff, 0x92, 0xc           # 10 data
        segment 0, 0xfffff, 0xfa, 0xc           # 18 code, ring 3
        segment 0, 0xfffff, 0xf2, 0xc           # 20 data, ring 3
        segment tss_a, 0x88, 0x89, 0            # 28 TSS
        .word   gate_target, 0x08, 0xec01, 0    # 30 call gate, one parameter
        segment TSS_B, 0x67, 0x89, 0            # 38 TSS of the second task
        segment 0, 0xfffff, 0x9a, 0xa           # 40 64-bit code
        segment 0, 0xfffff, 0x92, 0xc           # 48 its data
        .quad   0                               # 50
        segment tss64, 0x67, 0x89, 0            # 58 64-bit TSS
        .quad   0                               # 60 upper half
        segment 0, 0xfffff, 0xf2, 0xc           # 68 data, ring 3 (SYSRET: STAR + 8)
        segment 0, 0xfffff, 0xfa, 0xa           # 70 64-bit code, ring 3 (SYSRET: STAR + 16)
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .macro  gate32 offset, access
        .word   \offset, 0x08, \access << 8, 0
        .endm
        .macro  gate64 offset, access, ist
        .word   \offset, 0x40, (\access << 8) | \ist, 0
        .quad   0
        .endm
        .balign 16
idt32:  .fill   0x40, 8, 0
        gate32  int40, 0xee
        gate32  int41, 0xee
        gate32  int42, 0xee
        gate32  int43, 0xee
idt32_pointer:
        .word   . - idt32 - 1
        .long   idt32
        .balign 16
idt64:  .fill   8 * 2, 8, 0
        gate64  double_fault, 0x8e, 0
        .fill   5 * 2, 8, 0
        gate64  page_fault, 0x8e, 1
        .fill   (0x41 - 15) * 2, 8, 0
        gate64  int41_64, 0xee, 0
idt64_pointer:
        .word   . - idt64 - 1
        .quad   idt64
no_idt: .word   0
        .quad   0

        .balign 16
tss_a:  .long   0, 0x7000, 0x10
        .fill   0x66 - 12, 1, 0
        .word   0x68                    # ports 0..255 are open, virtual-8086 mode asks
        .fill   32, 1, 0
        .byte   0xff
        .balign 16
tss64:  .long   0
        .quad   0x7000                  # RSP0
        .fill   0x24 - 12, 1, 0
        .quad   0x3900                  # IST1
        .fill   0x68 - 0x2c, 1, 0
