#include "config/qemu_command_line.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace ostler::config {
namespace {

Result<CommandLine> parse(std::initializer_list<const char*> words) {
  const std::vector<std::string> arguments(words.begin(), words.end());
  return parse_qemu_command_line(arguments);
}

Machine machine(std::initializer_list<const char*> words) {
  auto parsed = parse(words);
  EXPECT_TRUE(parsed.has_value()) << parsed.error().message();
  return parsed ? parsed->machine : Machine{};
}

std::string error(std::initializer_list<const char*> words) {
  const auto parsed = parse(words);
  EXPECT_FALSE(parsed.has_value());
  return parsed ? "" : parsed.error().message();
}

TEST(QemuCommandLine, BareMemoryCountsInMebibytes) {
  EXPECT_EQ(machine({"-m", "512"}).memory_bytes, 512u << 20);
}
TEST(QemuCommandLine, MemoryTakesSuffixes) {
  EXPECT_EQ(machine({"-m", "size=2G"}).memory_bytes, uint64_t{2} << 30);
}
TEST(QemuCommandLine, NoMemoryIsTheUsualMemory) {
  EXPECT_EQ(machine({"-m", "0"}).memory_bytes, Machine{}.memory_bytes);
  EXPECT_EQ(machine({"-m", "1G", "-m", "0"}).memory_bytes, Machine{}.memory_bytes);
  EXPECT_EQ(
      machine({"-m", "0", "-machine", "memory-backend=r", "-object", "memory-backend-ram,id=r,size=64M"})
          .memory_bytes,
      64u << 20);
}
TEST(QemuCommandLine, TwoDashesAreOne) {
  EXPECT_EQ(machine({"--m", "1G"}).memory_bytes, 1u << 30);
}

TEST(QemuCommandLine, SmpNumberAloneGivesCores) {
  const Machine m = machine({"-smp", "4"});
  EXPECT_EQ(m.cpus, 4u);
  EXPECT_EQ(m.sockets, 1u);
  EXPECT_EQ(m.cores, 4u);
}

TEST(QemuCommandLine, SmpTopologyGivesTheCount) {
  EXPECT_EQ(machine({"-smp", "sockets=2,cores=2,threads=2"}).cpus, 8u);
}

TEST(QemuCommandLine, DiesAreALevelBetweenSocketsAndCores) {
  const Machine m = machine({"-smp", "16,sockets=2,dies=2,threads=2"});
  EXPECT_EQ(m.dies, 2u);
  EXPECT_EQ(m.cores, 2u);
  EXPECT_EQ(machine({"-smp", "sockets=2,dies=2,cores=3"}).cpus, 12u);
}

TEST(QemuCommandLine, NumaNodesNameTheirVcpusAndMemory) {
  const Machine m = machine({"-smp", "8", "-object", "memory-backend-ram,id=a,size=1G", "-object",
                             "memory-backend-ram,id=b,size=512M", "-numa",
                             "node,nodeid=1,cpus=0-2,cpus=5,memdev=a", "-numa", "node,memdev=b", "-numa",
                             "cpu,node-id=0,core-id=3", "-numa", "dist,src=0,dst=1,val=25"});
  ASSERT_EQ(m.numa.nodes.size(), 2u);
  EXPECT_EQ(m.numa.nodes[0].memdev, "b");
  EXPECT_EQ(m.numa.nodes[1].memdev, "a");
  EXPECT_EQ(m.numa.nodes[1].cpus, (std::vector<std::pair<unsigned, unsigned>>{{0, 2}, {5, 5}}));
  ASSERT_EQ(m.numa.cpus.size(), 1u);
  EXPECT_EQ(m.numa.cpus[0].core, 3u);
  EXPECT_FALSE(m.numa.cpus[0].socket);
  ASSERT_EQ(m.numa.distances.size(), 1u);
  EXPECT_EQ(m.numa.distances[0].value, 25);
  EXPECT_EQ(m.memory_bytes, 1536u << 20) << "without -m the nodes' memory";
}

TEST(QemuCommandLine, MistakesInNumaOptionsAreNamed) {
  EXPECT_EQ(error({"-numa", "node,cpus=3-1"}),
            "-numa node,cpus=3-1: cpus: '3-1' is not a number or a range like 0-3");
  EXPECT_EQ(error({"-numa", "node,nodeid=0", "-numa", "node,nodeid=0"}),
            "-numa node,nodeid=0: nodeid: node 0 is given already");
  EXPECT_EQ(error({"-numa", "node,nodeid=128"}), "-numa node,nodeid=128: nodeid: 128 is outside 0 to 127");
  EXPECT_EQ(error({"-numa", "dist,src=0,dst=1"}), "-numa dist,src=0,dst=1: val: is missing");
  EXPECT_EQ(error({"-numa", "dist,src=0,dst=1,val=256"}),
            "-numa dist,src=0,dst=1,val=256: val: 256 is outside 0 to 255");
  EXPECT_EQ(error({"-numa", "nodes"}), "-numa nodes: type: 'nodes' is none of node, dist, cpu");
}

TEST(QemuCommandLine, WithoutMTheBackendGivesTheSize) {
  EXPECT_EQ(machine({"-machine", "pc,memory-backend=r", "-object",
                     R"({"qom-type":"memory-backend-memfd","id":"r","size":805306368})"})
                .memory_bytes,
            768u << 20);
  EXPECT_EQ(machine({"-machine", "pc,memory-backend=r", "-m", "1G", "-object",
                     "memory-backend-memfd,id=r,size=768M"})
                .memory_bytes,
            1u << 30)
      << "they disagree, which the machine tells";
}

TEST(QemuCommandLine, SmpTopologyThatContradictsTheCountIsRefused) {
  EXPECT_EQ(error({"-smp", "4,sockets=3,cores=1,threads=1"}),
            "-smp 4,sockets=3,cores=1,threads=1: maxcpus: sockets 3 x dies 1 x cores 1 x threads 1 give 3 "
            "vCPUs, not 4; leave one of them out, and it follows from the rest");
  EXPECT_EQ(error({"-smp", "4,sockets=2,cores=2,threads=2"}),
            "-smp 4,sockets=2,cores=2,threads=2: maxcpus: sockets 2 x dies 1 x cores 2 x threads 2 give 8 "
            "vCPUs, not 4; say maxcpus=8, or give fewer of each");
  const Machine absent = machine({"-smp", "4,sockets=2,cores=2,threads=2,maxcpus=8"});
  EXPECT_EQ(absent.cpus, 4u);
  EXPECT_EQ(absent.max_cpus, 8u);
}

TEST(QemuCommandLine, SixtyFiveCpusAreTooMany) {
  EXPECT_EQ(error({"-smp", "65"}), "-smp 65: cpus: 65 is outside 1 to 64");
  EXPECT_EQ(error({"-smp", "4,cores=0"}), "-smp 4,cores=0: cores: 0 is outside 1 to 64");
}

TEST(QemuCommandLine, ADebuggersPortListensAndDoesNotWait) {
  const Machine m = machine({"-s"});
  ASSERT_TRUE(m.gdb_chardev);
  ASSERT_EQ(m.chardevs.front().id, *m.gdb_chardev);
  const auto value = [&](std::string_view key) {
    for (const KeyValue& each : m.chardevs.front().properties)
      if (each.key == key) return each.value;
    return std::string();
  };
  EXPECT_EQ(value("host"), "127.0.0.1");
  EXPECT_EQ(value("port"), "1234");
  EXPECT_EQ(value("server"), "on");
  EXPECT_EQ(value("wait"), "off");
}

TEST(QemuCommandLine, ADebuggersPortMayBeOfOtherKinds) {
  EXPECT_FALSE(machine({"-gdb", "none"}).gdb_chardev);
  EXPECT_EQ(machine({"-gdb", "chardev:c", "-chardev", "null,id=c"}).gdb_chardev, "c");
  const Machine m = machine({"-gdb", "unix:/tmp/x,server=on,wait=on"});
  EXPECT_EQ(m.chardevs.front().properties.size(), 3u) << "nothing is added to what was said";
  EXPECT_EQ(error({"-s", "-gdb", "stdio"}),
            "-gdb stdio: there is one debugger's port; -s and -gdb give it once");
}

TEST(QemuCommandLine, UnknownOptionNamesTheNearest) {
  EXPECT_EQ(error({"-kernal", "x"}),
            "-kernal: there is no such option; did you mean '-kernel'?; -help lists them all");
}

TEST(QemuCommandLine, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(error({"-drive", "file=a,if=virtio,snapshto=on"}),
            "-drive file=a,if=virtio,snapshto=on: it has no setting 'snapshto'; did you mean 'snapshot'?");
}

TEST(QemuCommandLine, MissingValueIsNamed) {
  EXPECT_EQ(error({"-kernel"}), "-kernel needs a value: file");
}

TEST(QemuCommandLine, UnknownMachineNamesTheNearest) {
  EXPECT_EQ(error({"-M", "microvn"}),
            "-machine microvn: type: there is no machine 'microvn'; known are pc, microvm; did you mean "
            "'microvm'?");
}

TEST(QemuCommandLine, MachinesOfAnyVersionAreTheOneThereIs) {
  EXPECT_EQ(machine({"-M", "microvm", "-machine", "pc-i440fx-7.2"}).type, "pc");
  EXPECT_NE(error({"-M", "pc-i440fx-"}), "");
  EXPECT_NE(error({"-M", "pc-i440fx-7x"}), "");
}

TEST(QemuCommandLine, MachineTellsWhatToBoot) {
  const Machine m = machine({"-machine", "pc,kernel=k,initrd=i,append=quiet,kernel_irqchip=off"});
  EXPECT_EQ(m.kernel, "k");
  EXPECT_EQ(m.initrd, "i");
  EXPECT_EQ(m.append, "quiet");
  ASSERT_EQ(m.machine_properties.size(), 1u);
  EXPECT_EQ(m.machine_properties.at(0).key, "kernel-irqchip");
}

TEST(QemuCommandLine, OldSwitchesAreProperties) {
  const Machine m = machine({"-no-acpi", "-no-hpet"});
  ASSERT_EQ(m.machine_properties.size(), 2u);
  EXPECT_EQ(m.machine_properties.at(0).key + "=" + m.machine_properties.at(0).value, "acpi=off");
  EXPECT_EQ(m.machine_properties.at(1).key + "=" + m.machine_properties.at(1).value, "hpet=off");
}

TEST(QemuCommandLine, AcceleratorsOfOtherHostsArePassedOn) {
  const Machine m = machine({"-machine", "accel=kvm:hvf:whpx:tcg"});
  ASSERT_EQ(m.accelerators.size(), 4u);
  EXPECT_EQ(m.accelerators.at(1).name, "hvf");
  EXPECT_EQ(machine({"-smp", "4,clusters=1"}).cpus, 4u);
}

TEST(QemuCommandLine, DriveWithVirtioBecomesDriveAndDevice) {
  const Machine m = machine({"-drive", "file=/d,,1.img,if=virtio,format=raw,snapshot=on"});
  ASSERT_EQ(m.drives.size(), 1u);
  EXPECT_EQ(m.drives[0].file, "/d,1.img");
  EXPECT_EQ(m.drives[0].options, R"({"driver":"raw"})");
  EXPECT_TRUE(m.drives[0].snapshot);
  ASSERT_EQ(m.devices.size(), 1u);
  EXPECT_EQ(m.devices[0].type, "virtio-blk-pci");
  EXPECT_EQ(m.devices[0].properties.back().value, m.drives[0].id);
}

TEST(QemuCommandLine, DriveOnMicrovmIsAnMmioDevice) {
  EXPECT_EQ(machine({"-drive", "file=d,if=virtio", "-M", "microvm"}).devices.at(0).type, "virtio-blk-device");
}

// "type bus unit drive" of a device.
std::string ide_place(const Machine& m, size_t index) {
  std::string result = m.devices.at(index).type;
  for (const auto& [key, value] : m.devices[index].properties)
    if (key == "bus" || key == "unit") result += " " + value;
  return result;
}

TEST(QemuCommandLine, DrivesOfPcAreIde) {
  const Machine m = machine({"-drive", "file=d", "-drive", "file=e,if=ide,serial=7"});
  ASSERT_EQ(m.devices.size(), 2u);
  EXPECT_EQ(ide_place(m, 0), "ide-hd ide.0 0");
  EXPECT_EQ(ide_place(m, 1), "ide-hd ide.0 1");
  EXPECT_EQ(m.devices[1].properties.front().value, "7");
  EXPECT_EQ(m.devices[1].properties.back().value, m.drives.at(1).id);
}

TEST(QemuCommandLine, OldNamesOfIdeDrives) {
  const Machine m = machine({"-hda", "a", "-hdb", "b", "-cdrom", "c", "-hdd", "d"});
  ASSERT_EQ(m.devices.size(), 4u);
  EXPECT_EQ(ide_place(m, 0), "ide-hd ide.0 0");
  EXPECT_EQ(ide_place(m, 1), "ide-hd ide.0 1");
  EXPECT_EQ(ide_place(m, 2), "ide-cd ide.1 0");
  EXPECT_EQ(ide_place(m, 3), "ide-hd ide.1 1");
  EXPECT_TRUE(m.drives.at(2).read_only);
  EXPECT_FALSE(m.drives.at(3).read_only);
  EXPECT_EQ(ide_place(machine({"disk.img"}), 0), "ide-hd ide.0 0");
}

TEST(QemuCommandLine, EmptyCdDriveCanGetAMedium) {
  const Machine m = machine({"-drive", "if=ide,media=cdrom,bus=1,unit=1"});
  EXPECT_EQ(ide_place(m, 0), "ide-cd ide.1 1");
  EXPECT_TRUE(m.drives.at(0).empty());
  EXPECT_EQ(m.devices[0].properties.back().key, "drive");
  EXPECT_EQ(m.devices[0].properties.back().value, m.drives[0].id);
}

TEST(QemuCommandLine, PlacesOfIdeDrivesAreChecked) {
  EXPECT_EQ(error({"-hda", "a", "b"}), "'b': the place 0 on the IDE buses is taken by -hda a");
  EXPECT_EQ(error({"-hda", "a", "-hdb", "b", "-hdc", "c", "-hdd", "d", "-drive", "file=e"}),
            "-drive file=e: there are 4 places for IDE drives; give this one to if=virtio");
  EXPECT_EQ(error({"-M", "microvm", "-hda", "a"}),
            "-hda a: the microvm machine has no IDE controller; write -drive file=a,if=virtio");
  EXPECT_EQ(
      error({"-drive", "file=d,if=floppy"}),
      "-drive file=d,if=floppy: if: 'floppy' has no controller in this version; say if=virtio, if=scsi or "
      "if=ide");
  EXPECT_EQ(error({"-drive", "file=d,index=1,unit=0"}),
            "-drive file=d,index=1,unit=0: index: goes without bus and unit, which say the same");
}

TEST(QemuCommandLine, ScsiDrivesGetAController) {
  const Machine m = machine({"-drive", "file=d,if=scsi,serial=7", "-drive", "file=e,if=scsi,unit=200"});
  ASSERT_EQ(m.devices.size(), 3u);
  EXPECT_EQ(m.devices[0].type, "virtio-scsi-pci");
  EXPECT_EQ(m.devices[1].type, "scsi-hd");
  EXPECT_EQ(m.devices[1].properties.front().value, "7");
  EXPECT_EQ(m.devices[1].properties.back().value, m.drives.at(0).id);
  EXPECT_EQ(m.devices[2].properties.front().key, "scsi-id");
  EXPECT_EQ(m.devices[2].properties.front().value, "200");
  EXPECT_EQ(machine({"-M", "microvm", "-drive", "file=d,if=scsi"}).devices.at(0).type, "virtio-scsi-device");
}

TEST(QemuCommandLine, ScsiDrivesUseTheControllerThatIsThere) {
  const Machine m = machine({"-device", "virtio-scsi-pci,id=s", "-drive", "file=d,if=scsi"});
  ASSERT_EQ(m.devices.size(), 2u);
  EXPECT_EQ(m.devices[0].id, "s");
  EXPECT_EQ(m.devices[1].type, "scsi-hd");
}

TEST(QemuCommandLine, ScsiDrivesHaveOneBus) {
  EXPECT_EQ(error({"-drive", "file=d,if=scsi,bus=1"}), "-drive file=d,if=scsi,bus=1: bus: 1 is too large");
  EXPECT_EQ(error({"-drive", "file=d,if=scsi,unit=256"}),
            "-drive file=d,if=scsi,unit=256: unit: 256 is too large");
}

TEST(QemuCommandLine, BlockdevInJsonKeepsItsTypes) {
  const Machine m = machine(
      {"-blockdev",
       R"({"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"/x"},"backing":null})"});
  ASSERT_EQ(m.block_nodes.size(), 1u);
  EXPECT_EQ(m.block_nodes[0].name, "n");
  EXPECT_NE(m.block_nodes[0].options.find(R"("backing":null)"), std::string::npos);
}

TEST(QemuCommandLine, BlockdevInDottedKeys) {
  const Machine m = machine({"-blockdev", "raw,node-name=f,file.driver=file,file.filename=/x"});
  EXPECT_EQ(m.block_nodes.at(0).options,
            R"({"driver":"raw","file.driver":"file","file.filename":"/x","node-name":"f"})");
}

TEST(QemuCommandLine, BlockdevNeedsAWellFormedName) {
  EXPECT_NE(error({"-blockdev", "file,filename=/x"}).find("node-name: is missing"), std::string::npos);
  EXPECT_NE(error({"-blockdev", "file,filename=/x,node-name=#1"}).find("'#1' is not a name"),
            std::string::npos);
  EXPECT_NE(error({"-blockdev", "filename=/x,node-name=a"}).find("driver: is missing"), std::string::npos);
  EXPECT_NE(error({"-blockdev", "{broken"}).find("not a JSON object"), std::string::npos);
}

TEST(QemuCommandLine, DriveTakesItsOwnKeysAndLeavesTheRestToTheNode) {
  const Drive d = machine({"-drive",
                           "id=d,if=none,file=a,cache=directsync,aio=threads,werror=stop,rerror=ignore,"
                           "copy-on-read=on,discard=unmap,backing.file.filename=b,l2-cache-size=1M"})
                      .drives.at(0);
  EXPECT_TRUE(d.writethrough);
  EXPECT_TRUE(d.copy_on_read);
  EXPECT_EQ(d.aio, "threads");
  EXPECT_EQ(d.write_error, "stop");
  EXPECT_EQ(d.read_error, "ignore");
  EXPECT_EQ(d.options, R"({"backing.file.filename":"b","cache.direct":"on","discard":"unmap",)"
                       R"("l2-cache-size":"1M"})");
}

TEST(QemuCommandLine, DriveLimitsInBothSpellings) {
  const char* const shorter = "if=none,file=a,iops=100,iops_max=200,iops_max_length=3,bps_rd=1M,group=g";
  const char* const longer =
      "if=none,file=a,throttling.iops-total=100,throttling.iops-total-max=200,"
      "throttling.iops-total-max-length=3,throttling.bps-read=1M,throttling.group=g";
  for (const char* const text : {shorter, longer}) {
    const Drive d = machine({"-drive", text}).drives.at(0);
    EXPECT_EQ(d.limits,
              R"({"bps-read":1048576,"iops-total":100,"iops-total-max":200,"iops-total-max-length":3})");
    EXPECT_EQ(d.throttle_group, "g");
  }
  EXPECT_NE(error({"-drive", "if=none,file=a,iops=1,throttling.iops-total=1"}).find("give one"),
            std::string::npos);
}

TEST(QemuCommandLine, DriveMistakesAreNamed) {
  const auto has = [](const char* options, const char* part) {
    EXPECT_NE(error({"-drive", options}).find(part), std::string::npos) << error({"-drive", options});
  };
  has("file=a,if=virtio,cache=non", "cache: 'non' is not one of");
  has("file=a,if=virtio,aio=native", "'native' goes with cache=none");
  has("file=a,if=virtio,rerror=enospc", "rerror: 'enospc' is not one of");
  has("if=virtio", "file: is missing");
}

TEST(QemuCommandLine, ACdromMayBeEmpty) {
  const Drive d = machine({"-drive", "if=none,id=cd,media=cdrom"}).drives.at(0);
  EXPECT_TRUE(d.empty());
  EXPECT_TRUE(d.read_only);
}

TEST(QemuCommandLine, SnapshotMakesEveryDriveTemporary) {
  EXPECT_TRUE(machine({"-drive", "file=d,if=virtio", "-snapshot"}).drives.at(0).snapshot);
  EXPECT_NE(error({"-snapshot", "-blockdev", "file,node-name=p,filename=/x"}).find("snapshot=on"),
            std::string::npos);
}

TEST(QemuCommandLine, ObjectsAreKeptWithTheirProperties) {
  const Machine m = machine(
      {"-object", "throttle-group,id=g,x-iops-total=5", "-object", R"({"qom-type":"iothread","id":"io0"})"});
  ASSERT_EQ(m.objects.size(), 2u);
  EXPECT_EQ(m.objects[0].type, "throttle-group");
  EXPECT_EQ(m.objects[0].properties.at(0).key, "x-iops-total");
  EXPECT_EQ(m.objects[1].id, "io0");
  EXPECT_NE(error({"-object", "iothred,id=a"}).find("did you mean 'iothread'"), std::string::npos);
  EXPECT_NE(error({"-object", "iothread"}).find("id: is missing"), std::string::npos);
  EXPECT_NE(error({"-object", "iothread,id=a", "-object", "secret,id=a"}).find("is taken"),
            std::string::npos);
}

TEST(QemuCommandLine, ListsOfADeviceStayJson) {
  const Machine m = machine(
      {"-device", R"({"driver":"virtio-blk-pci","drive":"d","iothread-vq-mapping":[{"iothread":"a"}]})"});
  ASSERT_EQ(m.devices.size(), 1u);
  EXPECT_EQ(m.devices[0].properties.back().key, "iothread-vq-mapping");
  EXPECT_EQ(m.devices[0].properties.back().value, R"([{"iothread":"a"}])");
}

TEST(QemuCommandLine, NographicPutsTheSerialPortOnTheTerminal) {
  const Machine m = machine({"-nographic"});
  ASSERT_EQ(m.serials.size(), 1u);
  ASSERT_EQ(m.chardevs.size(), 1u);
  EXPECT_EQ(m.chardevs[0].backend, "stdio");
  EXPECT_TRUE(m.chardevs[0].mux);
}

TEST(QemuCommandLine, SerialOptionsReplaceTheDefault) {
  const Machine m = machine({"-serial", "file:/tmp/log", "-serial", "none"});
  ASSERT_EQ(m.serials.size(), 2u);
  EXPECT_EQ(m.chardevs.at(0).backend, "file");
  EXPECT_EQ(m.serials[1], "");
}

TEST(QemuCommandLine, NicMakesBackEndAndCard) {
  const Machine m =
      machine({"-nic", "user,model=virtio-net-pci,hostfwd=tcp::2222-:22,mac=52:54:00:00:00:01"});
  ASSERT_EQ(m.netdevs.size(), 1u);
  EXPECT_EQ(m.netdevs[0].properties.at(0).value, "tcp::2222-:22");
  ASSERT_EQ(m.devices.size(), 1u);
  EXPECT_EQ(m.devices[0].properties.at(0).key, "mac");
}

TEST(QemuCommandLine, NetworkInJsonHasListsOfStrings) {
  const Machine m = machine(
      {"-netdev",
       R"({"type":"user","id":"n","hostfwd":[{"str":"tcp::1-:2"},{"str":"udp::3-:4"}],"dnssearch":[{"str":"a.b"}]})"});
  std::vector<std::string> seen;
  for (const auto& [key, value] : m.netdevs.at(0).properties) seen.push_back(key + "=" + value);
  EXPECT_EQ(seen, (std::vector<std::string>{"dnssearch=a.b", "hostfwd=tcp::1-:2", "hostfwd=udp::3-:4"}));
  EXPECT_EQ(machine({"-netdev", "user,id=n,hostfwd.0.str=x"}).netdevs.at(0).properties.at(0).key,
            "hostfwd.0.str");
}

TEST(QemuCommandLine, PropertiesOfAllDevicesOfAType) {
  const Machine m = machine({"-global", "virtio-net-pci.mq=on", "-global",
                             "driver=cfi.pflash01,property=secure,value=a=b", "-global", "x.y=z.w=1"});
  ASSERT_EQ(m.globals.size(), 3u);
  EXPECT_EQ(m.globals[0].driver, "virtio-net-pci");
  EXPECT_EQ(m.globals[0].property.key, "mq");
  EXPECT_EQ(m.globals[0].property.value, "on");
  EXPECT_EQ(m.globals[1].driver, "cfi.pflash01");
  EXPECT_EQ(m.globals[1].property.value, "a=b");
  EXPECT_EQ(m.globals[2].property.value, "z.w=1");
  for (const char* const text : {"virtio-net-pci", "virtio-net-pci=on", ".mq=on", "virtio-net-pci.=on",
                                 "driver=a,property=b", "driver=a,property=b,value=c,more=d"})
    EXPECT_FALSE(parse_qemu_command_line(std::vector<std::string>{"-global", text})) << text;
}

TEST(QemuCommandLine, SettingsOfOptionsThatWereGiven) {
  const Machine m = machine({"-device", "virtio-net-pci,id=a,netdev=n", "-netdev", "user,id=a", "-set",
                             "device.a.mac=52:54:00:00:00:01", "-set", "netdev.a.hostname=x,y", "-drive",
                             "id=d,if=none,file=/a.img", "-set", "drive.d.readonly=on"});
  EXPECT_EQ(m.devices.at(0).properties.back().key, "mac");
  EXPECT_EQ(m.netdevs.at(0).properties.back().value, "x,y");
  EXPECT_TRUE(m.drives.at(0).read_only);
  const auto error = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"-device", "virtio-net-pci,id=a", "-device", R"({"driver":"x","id":"j"})"});
    const auto parsed = parse_qemu_command_line(words);
    return parsed ? std::string() : parsed.error().message();
  };
  for (const char* const text : {"device.b.mac=1", "device.j.mac=1", "netdev.a.mac=1"})
    EXPECT_NE(error({"-set", text}).find("before it"), std::string::npos) << text;
  for (const char* const text : {"device", "device.a", "device.a.mac", "device.a.=1", "=", "a=b.c.d"})
    EXPECT_NE(error({"-set", text}).find("example"), std::string::npos) << text;
  EXPECT_NE(error({"-set", "devise.a.mac=1"}).find("'device'"), std::string::npos);
  EXPECT_NE(error({"-set"}).find("needs a value"), std::string::npos);
}

TEST(QemuCommandLine, AcceleratorsKeepTheirOrder) {
  const Machine m = machine({"-machine", "pc,accel=kvm:tcg"});
  ASSERT_EQ(m.accelerators.size(), 2u);
  EXPECT_EQ(m.accelerators[0].name, "kvm");
  EXPECT_EQ(m.accelerators[1].name, "tcg");
}

TEST(QemuCommandLine, PropertiesBelongToTheirAccelerator) {
  const Machine m = machine({"-accel", "kvm,kernel-irqchip=on", "-accel", "bt,cache=8M,check=3"});
  ASSERT_EQ(m.accelerators.size(), 2u);
  ASSERT_EQ(m.accelerators[0].properties.size(), 1u);
  EXPECT_EQ(m.accelerators[0].properties[0].key, "kernel-irqchip");
  ASSERT_EQ(m.accelerators[1].properties.size(), 2u);
  EXPECT_EQ(m.accelerators[1].properties[1].value, "3");
}

TEST(QemuCommandLine, DeviceHelpNamesItsSubject) {
  const auto parsed = parse({"-device", "virtio-blk-pci,help"});
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->action, CommandLine::Action::kDeviceHelp);
  EXPECT_EQ(parsed->subject, "virtio-blk-pci");
}

TEST(QemuCommandLine, InitrdWithoutKernelIsRefused) {
  EXPECT_EQ(error({"-initrd", "x"}), "-initrd: only goes with -kernel");
}

TEST(QemuCommandLine, FsdevBecomesAFolder) {
  const Machine m =
      machine({"-fsdev", "local,id=f,path=/some/where,security_model=mapped,readonly=on,fmode=0640"});
  ASSERT_EQ(m.shared_folders.size(), 1u);
  const SharedFolder& folder = m.shared_folders[0];
  EXPECT_EQ(folder.id, "f");
  EXPECT_EQ(folder.path, "/some/where");
  EXPECT_EQ(folder.security, "mapped-xattr");
  EXPECT_TRUE(folder.read_only);
  EXPECT_EQ(folder.file_mode, 0640u);
  EXPECT_EQ(folder.directory_mode, 0700u);
}

TEST(QemuCommandLine, VirtfsIsAFolderAndItsDevice) {
  const Machine m = machine({"-virtfs", "local,path=/a,mount_tag=t,security_model=none", "-M", "microvm"});
  ASSERT_EQ(m.shared_folders.size(), 1u);
  EXPECT_EQ(m.shared_folders[0].id, "t");
  const Device& device = m.devices.back();
  EXPECT_EQ(device.type, "virtio-9p-device") << "whichever of the two options comes first";
  EXPECT_EQ(device.properties.at(0).value, "t");
  EXPECT_EQ(device.properties.at(1).value, "t");
}

TEST(QemuCommandLine, FsdevOfAnotherKindIsRefused) {
  EXPECT_NE(error({"-fsdev", "proxy,id=f,path=/a"}).find("local,path=DIR"), std::string::npos);
  EXPECT_NE(error({"-fsdev", "local,id=f,path=/a"}).find("none, mapped-xattr or passthrough"),
            std::string::npos);
}

TEST(QemuCommandLine, HelpListsEveryOptionOnce) {
  const std::string help = qemu_help();
  for (const char* option :
       {"-kernel",    "-initrd",  "-append",    "-m ",     "-smp",      "-cpu",     "-accel",
        "-machine",   "-drive",   "-blockdev",  "-device", "-netdev",   "-chardev", "-serial",
        "-nographic", "-display", "-no-reboot", "-S",      "-snapshot", "-rtc",     "-name",
        "-d ",        "-D ",      "-version",   "-help"})
    EXPECT_NE(help.find(std::string("  ") + option), std::string::npos) << option;
}

}  // namespace
}  // namespace ostler::config
