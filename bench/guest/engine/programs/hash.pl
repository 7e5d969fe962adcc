# Loops over hashes, arrays and regular expressions.
use strict;
use warnings;

my (%count, @order);
my $seed = 12345;
for my $i (1 .. 2_500_000) {
    $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
    $count{ 'k' . ($seed >> 16 & 4095) } += $i;
}
my $sum = 0;
$sum = ($sum * 31 + $count{$_}) % 1000000007 for sort keys %count;
print "$sum\n";

my $text = join ' ', map { "word$_" } 1 .. 150_000;
my $matches = 0;
$matches += length $1 while $text =~ /\bword(\d*7\d*)\b/g;
print "$matches\n";
(my $other = $text) =~ tr/a-z/b-za/;
$other =~ s/(\d+)/<$1>/g;
print length $other, "\n";
@order = sort { substr($a, -2) cmp substr($b, -2) or $a cmp $b } split / /, $text;
print "@order[0 .. 9]\n";
