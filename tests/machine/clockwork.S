// A guest that one lost interrupt stops for good. A token goes from processor to processor by IPI; when it is
// back at the first one, that is a step: the step's byte (a linear congruential sequence) goes out on COM1,
// and a timer is armed, another kind at each step, whose interrupt sends the token on its next round.
//
// Multiboot 1; the command line ends in three characters: number of processors, machine (p: pc, m: microvm:
// no PIT, RTC and HPET), and what happens at step 50 (r: nothing, t: triple fault, x: isa-debug-exit with
// 21, b: reset by port 0xcf9).
//
// The test reads the words at `shared`.

#define SHARED      0x70000
#define STEPS       SHARED + 0
#define SEQUENCE    SHARED + 4
#define TSC_ERRORS  SHARED + 8
#define LAST_TSC    SHARED + 12
#define CPUS        SHARED + 20
#define MACHINE     SHARED + 24
#define MODE        SHARED + 28
#define EXPECTED    SHARED + 32
#define READY       SHARED + 36
#define STRAY       SHARED + 40
#define AGAIN       SHARED + 44
#define ROUNDS      SHARED + 64      // per processor
#define SHARED_END  SHARED + 1024

#define IDT         0x71000
#define TRAMPOLINE  0x8000
#define STACKS      0x90000          // downwards, 4 KiB each

#define LAPIC       0xfee00000
#define IOAPIC      0xfec00000
#define HPET        0xfed00000

#define VECTOR_PIT    0x20
#define VECTOR_RTC    0x28
#define VECTOR_TIMER  0x30
#define VECTOR_HPET   0x31
#define VECTOR_TOKEN  0x40

#define KIND_COUNT    0
#define KIND_DEADLINE 1
#define KIND_PIT      2
#define KIND_RTC      3
#define KIND_HPET     4

#define KINDS_PC 5
#define KINDS_MICROVM 2

  .text
  .code32
  .balign 4
header:
  .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
  .long header, header, 0, 0, _start

  .balign 8
gdt:
  .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:
  .word 23
  .long gdt
idtr:
  .word 0x7ff
  .long IDT
no_idt:
  .word 0
  .long 0

  .globl _start
_start:
  cli
  cld
  movl $STACKS, %esp
  movl 16(%ebx), %esi               // the command line's last three characters
1:
  lodsb
  testb %al, %al
  jnz 1b
  subl $4, %esi
  movl $SHARED, %edi                // all shared words to zero
  movl $(1024 / 4), %ecx
  xorl %eax, %eax
  rep stosl
  movzbl 0(%esi), %eax
  subl $'0', %eax
  movl %eax, CPUS
  movzbl 1(%esi), %eax
  movl %eax, MACHINE
  movzbl 2(%esi), %eax
  movl %eax, MODE

  lgdt gdtr
  ljmp $8, $1f
1:
  call flat_segments

  movl $IDT, %edi                   // every vector: an unexpected one
  movl $256, %ecx
1:
  movl $unexpected, %eax
  call set_gate
  loop 1b
  movl $(IDT + 8 * VECTOR_PIT), %edi
  movl $on_pit, %eax
  call set_gate
  movl $(IDT + 8 * 0x27), %edi      // spurious ones of the 8259s and of the local APIC
  movl $spurious, %eax
  call set_gate
  movl $(IDT + 8 * VECTOR_RTC), %edi
  movl $on_rtc, %eax
  call set_gate
  movl $(IDT + 8 * 0x2f), %edi
  movl $spurious, %eax
  call set_gate
  movl $(IDT + 8 * VECTOR_TIMER), %edi
  movl $on_timer, %eax
  call set_gate
  movl $on_hpet, %eax
  call set_gate
  movl $(IDT + 8 * VECTOR_TOKEN), %edi
  movl $on_token, %eax
  call set_gate
  movl $(IDT + 8 * 0xff), %edi
  movl $spurious, %eax
  call set_gate
  lidt idtr
  call enable_lapic

  cmpl $'p', MACHINE
  jne 2f
  movl $0x700, LAPIC + 0x350        // LINT0: the 8259s
  movb $0x11, %al                   // 8259s: vectors 0x20 and 0x28; inputs 0, 2 and 8 open
  outb %al, $0x20
  outb %al, $0xa0
  movb $VECTOR_PIT, %al
  outb %al, $0x21
  movb $VECTOR_RTC, %al
  outb %al, $0xa1
  movb $4, %al
  outb %al, $0x21
  movb $2, %al
  outb %al, $0xa1
  movb $1, %al
  outb %al, $0x21
  outb %al, $0xa1
  movb $0xfa, %al
  outb %al, $0x21
  movb $0xfe, %al
  outb %al, $0xa1
  movl HPET + 0x104, %ecx           // HPET comparator 0 to the first I/O APIC pin that it can reach
  bsfl %ecx, %ecx
  leal 0x10(%ecx, %ecx), %eax
  movl %eax, IOAPIC
  movl $VECTOR_HPET, IOAPIC + 0x10
  incl %eax
  movl %eax, IOAPIC
  movl $0, IOAPIC + 0x10
  shll $9, %ecx
  orl $4, %ecx                      // interrupt enabled, edge, one-shot
  movl %ecx, HPET + 0x100
  movl $1, HPET + 0x10
2:
  movl $trampoline, %esi
  movl $TRAMPOLINE, %edi
  movl $(trampoline_end - trampoline), %ecx
  rep movsb
  movl $1, READY
  cmpl $1, CPUS
  je 3f
  movl $0xc4500, LAPIC + 0x300      // INIT to all others, and SIPI twice
  movl $(0xc4600 + TRAMPOLINE / 4096), LAPIC + 0x300
  movl $(0xc4600 + TRAMPOLINE / 4096), LAPIC + 0x300
3:
  pause
  movl READY, %eax
  cmpl CPUS, %eax
  jne 3b
  call arm
idle:
  sti
  hlt
  jmp idle

// edi: the gate, moved to the next one; eax: handler
set_gate:
  movw %ax, 0(%edi)
  movw $8, 2(%edi)
  movw $0x8e00, 4(%edi)
  shrl $16, %eax
  movw %ax, 6(%edi)
  addl $8, %edi
  ret

flat_segments:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  ret

enable_lapic:
  movl $0x1ff, LAPIC + 0xf0
  movl $0, LAPIC + 0x80
  movl $0xb, LAPIC + 0x3e0          // the timer counts at its full frequency
  ret

// Step number -> kind of timer, armed to ring soon.
arm:
  movl STEPS, %eax
  xorl %edx, %edx
  movl $KINDS_MICROVM, %ecx
  cmpl $'p', MACHINE
  jne 1f
  movl $KINDS_PC, %ecx
1:
  divl %ecx
  movl %edx, EXPECTED
  cmpl $KIND_DEADLINE, %edx
  je arm_deadline
  cmpl $KIND_PIT, %edx
  je arm_pit
  cmpl $KIND_RTC, %edx
  je arm_rtc
  cmpl $KIND_HPET, %edx
  je arm_hpet
  movl $VECTOR_TIMER, LAPIC + 0x320
  movl $100000, LAPIC + 0x380
  ret
arm_deadline:
  movl $(0x40000 + VECTOR_TIMER), LAPIC + 0x320
  mfence
  rdtsc
  addl $200000, %eax
  adcl $0, %edx
  movl $0x6e0, %ecx
  wrmsr
  ret
arm_pit:
  movb $0x30, %al
  outb %al, $0x43
  movb $120, %al
  outb %al, $0x40
  xorb %al, %al
  outb %al, $0x40
  ret
arm_rtc:
  movb $0x0a, %al
  outb %al, $0x70
  movb $0x23, %al                   // 8192 Hz
  outb %al, $0x71
  movb $0x0b, %al
  outb %al, $0x70
  movb $0x42, %al
  outb %al, $0x71
  ret
arm_hpet:
  movl HPET + 0xf0, %eax
  movl HPET + 0xf4, %edx
  addl $20000, %eax
  adcl $0, %edx
  movl $0xffffffff, HPET + 0x10c    // not due while it is half written
  movl %eax, HPET + 0x108
  movl %edx, HPET + 0x10c
  subl HPET + 0xf0, %eax            // passed meanwhile: it may not ring before the counter comes round again
  jg 1f
  incl AGAIN                        // or has rung, and will once more
  jmp arm_hpet
1:
  ret

on_pit:
  pusha
  movb $0x20, %al
  outb %al, $0x20
  movl $KIND_PIT, %eax
  jmp fired

on_rtc:
  pusha
  movb $0x0b, %al                   // off; then its flag
  outb %al, $0x70
  movb $2, %al
  outb %al, $0x71
  movb $0x0c, %al
  outb %al, $0x70
  inb $0x71, %al
  movb $0x20, %al
  outb %al, $0xa0
  outb %al, $0x20
  movl $KIND_RTC, %eax
  jmp fired

on_timer:
  pusha
  movl $0, LAPIC + 0xb0
  movl EXPECTED, %eax
  cmpl $KIND_DEADLINE, %eax
  jbe fired
  movl $KIND_COUNT, %eax
  jmp fired

on_hpet:
  pusha
  movl $0, LAPIC + 0xb0
  movl $KIND_HPET, %eax

fired:                              // eax: kind. The RTC may ring once more before it is off.
  cmpl EXPECTED, %eax
  jne 1f
  movl $-1, EXPECTED
  call send_token
  popa
  iret
1:
  cmpl $KIND_HPET, %eax
  jne 2f
  decl AGAIN
  jns 3f
  incl AGAIN
2:
  incl STRAY
3:
  popa
  iret

// To the processor after this one.
send_token:
  movl LAPIC + 0x20, %eax
  shrl $24, %eax
  incl %eax
  cmpl CPUS, %eax
  jb 1f
  xorl %eax, %eax
1:
  shll $24, %eax
  movl %eax, LAPIC + 0x310
  movl $VECTOR_TOKEN, LAPIC + 0x300
  ret

on_token:
  pusha
  movl $0, LAPIC + 0xb0
  movl LAPIC + 0x20, %eax
  shrl $24, %eax
  incl ROUNDS(, %eax, 4)
  testl %eax, %eax
  jz 1f
  call send_token
  popa
  iret
1:
  call step
  popa
  iret

step:
  rdtsc                             // never backwards
  cmpl LAST_TSC + 4, %edx
  ja 2f
  jb 1f
  cmpl LAST_TSC, %eax
  jae 2f
1:
  incl TSC_ERRORS
2:
  movl %eax, LAST_TSC
  movl %edx, LAST_TSC + 4

  imull $1664525, SEQUENCE, %eax
  addl $1013904223, %eax
  movl %eax, SEQUENCE
  shrl $24, %eax
  movl %eax, %ecx
  movw $0x3fd, %dx
3:
  inb %dx, %al
  testb $0x20, %al
  jz 3b
  movw $0x3f8, %dx
  movl %ecx, %eax
  outb %al, %dx

  incl STEPS
  cmpl $50, STEPS
  jne arm
  movl MODE, %eax
  cmpl $'t', %eax
  je 4f
  cmpl $'x', %eax
  je 5f
  cmpl $'b', %eax
  jne arm
  movw $0xcf9, %dx
  movb $6, %al
  outb %al, %dx
  jmp stop
4:
  lidt no_idt
  int3
5:
  movw $0x501, %dx
  movb $21, %al
  outb %al, %dx
stop:
  cli
  hlt
  jmp stop

spurious:
  iret

unexpected:
  movl $0xdeadbeef, SEQUENCE
  incl TSC_ERRORS
  jmp stop

  .code16
trampoline:
  cli
  lgdtl %cs:(trampoline_gdtr - trampoline)
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $8, $others
trampoline_gdtr:
  .word 23
  .long gdt
trampoline_end:

  .code32
others:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl LAPIC + 0x20, %eax
  shrl $24, %eax
  shll $12, %eax
  movl $STACKS, %esp
  subl %eax, %esp
  lidt idtr
  call enable_lapic
  lock incl READY
  jmp idle
