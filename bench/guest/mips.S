// A kernel without an operating system that counts: it runs a known number of integer instructions in
// 64-bit mode between two characters on the serial port, so that the host can time them.
//
// Loaded by multiboot 1 (a 32-bit ELF file). The last number of its command line is the number of rounds of
// the loop; each round executes MIPS_PER_ROUND instructions. Writes `S` as its very first action (with
// 0 rounds that is what measures process start), `E`, a checksum in hexadecimal that is the same on every
// correct engine, a newline; then ends the machine through isa-debug-exit at port 0xf4.
//
// Built by bench/run.py: gcc -m32 -nostdlib -static -Wl,-N,-Ttext=0x100000,--build-id=none,--no-warn-rwx-segments

#define COM1 0x3f8
#define MIPS_PER_ROUND 41 /* bench/run.py has the same number */

        .section .text
        .code32
        .globl _start
        .align 4
        .long 0x1badb002, 0, -0x1badb002        // multiboot header: magic, flags, checksum
_start:
        mov     $COM1, %dx
        mov     $'S', %al
        out     %al, %dx
        mov     $stack_top, %esp
        cld

        // ebp = the last decimal number of the command line, 0 without one.
        xor     %ebp, %ebp
        testl   $4, (%ebx)                      // multiboot information: is there a command line?
        jz      2f
        mov     16(%ebx), %esi
0:      xor     %ebp, %ebp                      // a number begins anew after anything that is not a digit
1:      xor     %eax, %eax
        lodsb
        test    %al, %al
        jz      2f
        sub     $'0', %eax
        cmp     $9, %eax
        ja      0b
        imul    $10, %ebp
        add     %eax, %ebp
        jmp     1b
2:
        // Identity map of the first GiB with 2 MiB pages, then long mode.
        mov     $pdpt + 3, %eax
        mov     %eax, pml4
        mov     $pd + 3, %eax
        mov     %eax, pdpt
        mov     $pd, %edi
        mov     $0x83, %eax                     // present, writable, large
        mov     $512, %ecx
3:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        loop    3b
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax                     // PAE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx               // IA32_EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax               // paging
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $8, $long_mode

        .code64
long_mode:
        xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %ebp, %ecx
        mov     $table, %esi
        mov     $0x123456789abcdef, %r8
        xor     %r9d, %r9d
        xor     %r10d, %r10d
        xor     %r11d, %r11d
        xor     %r12d, %r12d
        xor     %r13d, %r13d
        xor     %r14d, %r14d
        xor     %r15d, %r15d
        xor     %ebp, %ebp
        test    %ecx, %ecx
        jz      finish

        .align 16
round:
        mov     %r8, %rax                       // 1: a shift-register generator feeds the rest
        shr     $13, %rax
        xor     %rax, %r8
        mov     %r8, %rax
        shl     $7, %rax                        // 5
        xor     %rax, %r8
        mov     %r8, %rdx                       // read, change and write one of 8192 words
        and     $0xfff8, %edx
        mov     (%rsi,%rdx), %rbx
        add     %r8, %rbx                       // 10
        mov     %rbx, (%rsi,%rdx)
        lea     5(%rbx,%rbx,2), %r9
        movzbl  %bl, %r10d
        add     %r10d, %r11d
        imul    %r9, %r9                        // 15
        sub     %r9, %r12
        cmp     %r12, %r8
        setb    %al
        movzbl  %al, %eax
        add     %rax, %r13                      // 20
        test    $1, %r8b
        jz      1f                              // a branch that cannot be foreseen; both ways take 2 more
        dec     %r14
        jmp     2f
1:      inc     %r14
        jmp     2f                              // 24
2:      push    %r8
        call    rotate                          // 26, and 4 inside
        pop     %r8
        adc     $0, %r15
        mov     %r15d, 0x100(%rsi)
        movslq  0x100(%rsi), %rax
        xor     %rax, %r11                      // 35
        not     %r11
        neg     %r13
        bt      $5, %r8d
        cmovc   %r9, %rbp
        dec     %ecx                            // 40
        jnz     round

finish:
        mov     $'E', %al
        call    put
        xor     %r9, %r8
        xor     %r11, %r8
        xor     %r12, %r8
        xor     %r13, %r8
        xor     %r14, %r8
        xor     %r15, %r8
        xor     %rbp, %r8
        mov     $16, %ebx
        mov     $digits, %edi
1:      rol     $4, %r8
        mov     %r8d, %eax
        and     $15, %eax
        mov     (%rdi,%rax), %al
        call    put
        dec     %ebx
        jnz     1b
        mov     $'\n', %al
        call    put
        xor     %eax, %eax
        mov     $0xf4, %dx
        out     %eax, %dx
2:      cli
        hlt
        jmp     2b

rotate:
        mov     8(%rsp), %rax
        rol     $3, %rax
        add     %rax, %r15
        ret

// al to the serial port when its transmitter is empty
put:
        mov     %al, %ah
        mov     $COM1 + 5, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     $COM1, %dx
        mov     %ah, %al
        out     %al, %dx
        ret

        .section .rodata
digits: .ascii  "0123456789abcdef"
        .align 8
gdt:    .quad   0, 0x00209a0000000000           // null, 64-bit code
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .section .bss
        .align 4096
pml4:   .skip   4096
pdpt:   .skip   4096
pd:     .skip   4096
table:  .skip   65536
        .skip   4096
stack_top:
        .section .note.GNU-stack, "", @progbits
