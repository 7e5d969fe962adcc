"""Boots guests under a VMM and talks to their serial console. Standard library only.

guests.py   where the prepared kernel, initrd and Debian image are
vmm.py      command lines of the VMMs (QEMU's spelling, `ostler run`) and the running process
console.py  waiting for text, running shell commands with their status
steps.py    one printed line per step, with its time
workload.py the workload guest and the same tree run natively
"""
