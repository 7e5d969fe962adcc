# Compiles the decoder without CMake, for `./dev soak compile`; run at the root of the unpacked sources.
sources = $(wildcard src/base/*.cpp src/state/*.cpp src/x86/*.cpp src/x86/opcodes/*.cpp) tests/soak/program.cpp
objects = $(foreach s,$(sources),out/$(subst /,-,$(s:.cpp=.o)))
flags = -std=c++23 -O2 -Isrc -DFMT_HEADER_ONLY

out/program: $(objects)
	g++ -o $@ $^ -pthread

define compile
out/$(subst /,-,$(1:.cpp=.o)): $(1)
	@mkdir -p out
	g++ $(flags) -c -o $$@ $$<
endef
$(foreach s,$(sources),$(eval $(call compile,$(s))))
