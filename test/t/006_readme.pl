# Every command of the README and of docs/ works.
#
# ```sql blocks are run by psql, those of one "## " section in their order, in a
# database of its own.  What a section needs first stands in a comment that
# readers don't see, run where it stands:
#
#   <!-- setup-sql
#   CREATE TABLE ...
#   -->
#
# ```sh blocks are not run, as some would run this test; what they name must be
# there.  Other blocks show output.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";

# A list of { section, line, kind, text }, kind being sql, setup-sql, sh...
sub read_blocks
{
	my ($file) = @_;
	my $section = 'top';
	my @blocks;
	my $block;
	my $end;

	open my $in, '<', $file or die "could not open $file: $!";
	while (my $line = <$in>)
	{
		if ($block)
		{
			if ($line =~ $end)
			{
				push @blocks, $block;
				undef $block;
			}
			else
			{
				$line =~ s/^\Q$block->{indent}\E//;
				$block->{text} .= $line;
			}
		}
		elsif ($line =~ /^## +(.*?)\s*$/)
		{
			$section = $1;
		}
		elsif ($line =~ /^(\s*)(`{3,})\s*(\S*)/)
		{
			($block, $end) = (
				{ section => $section, line => $., kind => $3, indent => $1, text => '' },
				qr/^\s*$2\s*$/);
		}
		elsif ($line =~ /^<!--\s*(setup-sql)\s*$/)
		{
			($block, $end) = (
				{ section => $section, line => $., kind => $1, indent => '', text => '' }, qr/^-->/);
		}
	}
	die "$file:$block->{line}: this block has no end" if $block;
	return @blocks;
}

my @blocks;
foreach my $file ("$top/README.md", sort glob "$top/docs/*.md")
{
	my $name = $file =~ s{^\Q$top/\E}{}r;
	push @blocks, map { { %$_, file => $name } } read_blocks($file);
}
ok((grep { $_->{kind} eq 'sql' && $_->{file} eq 'README.md' } @blocks), 'the README has commands in SQL');
is_deeply([ map { "$_->{file}:$_->{line}" } grep { $_->{kind} eq '' } @blocks ],
	[], 'every block says what it is in');

# ---- SQL ----

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

my @sections;
foreach my $block (grep { $_->{kind} =~ /^(setup-)?sql$/ } @blocks)
{
	my $name = "$block->{file}: $block->{section}";
	push @sections, { name => $name, blocks => [] }
	  if !@sections || $sections[-1]{name} ne $name;
	push @{ $sections[-1]{blocks} }, $block;
}

my $databases = 0;
foreach my $section (@sections)
{
	my $db = 'readme_' . ++$databases;
	my $script = join '', map { "\\echo $_->{file}:$_->{line}\n$_->{text}\n" } @{ $section->{blocks} };
	my ($stdout, $stderr);

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	my $ret = $node->psql($db, $script, stdout => \$stdout, stderr => \$stderr,
		on_error_stop => 1, timeout => $PostgreSQL::Test::Utils::timeout_default);
	ok($ret == 0, "section \"$section->{name}\"")
	  or diag join "\n", "after " . ($stdout =~ /.*^(\S+\.md:\d+)$/ms)[0], $stderr;
}

# ---- shell ----

# What a line of shell runs, without what stands before it
sub commands_of
{
	my ($text) = @_;
	$text =~ s/\\\n/ /g;
	return grep { @$_ } map {
		my @words = grep { length } split /\s+/, $_;
		shift @words while @words && $words[0] =~ /^(sudo|-u|postgres|exec|env|\$|\w+=\S*)$/;
		[@words]
	} grep { !/^\s*#/ } map { split /\s*(?:&&|\|\||\||;)\s*/ } map { s/\s#\s.*//r } split /\n/, $text;
}

sub names_something
{
	my ($program, @arguments) = @_;

	if ($program eq 'make')
	{
		return !system("make -C '$top' -n " . join(' ', map { "'$_'" } @arguments) . ' >/dev/null 2>&1');
	}
	return -x "$top/$program" if $program =~ m{/} && $program !~ m{^/};
	return !system("command -v '$program' >/dev/null 2>&1");
}

foreach my $block (grep { $_->{kind} =~ /^(sh|bash|shell)$/ } @blocks)
{
	foreach my $command (commands_of($block->{text}))
	{
		# Readers bring these
		next if $command->[0] =~ /^(apt|apt-get|git|cd|docker|systemctl)$/;
		ok(names_something(@$command), "$block->{file}:$block->{line}: @$command");
	}
}

done_testing();
