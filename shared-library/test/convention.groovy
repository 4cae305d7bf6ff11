/*
 * Checks the conventions that every step and every class of the library keeps, without exceptions.
 *     groovy -cp shared-library/test/harness:shared-library/src shared-library/test/convention.groovy
 */
import io.tidegate.Evidence
import io.tidegate.Keys
import io.tidegate.Options
import jenkins.SourceRules

File library = new File(getClass().protectionDomain.codeSource.location.toURI()).parentFile.parentFile
List<String> mistakes = []
List<File> vars = new File(library, 'vars').listFiles().sort()
List<File> classes = new File(library, 'src/io/tidegate').listFiles().sort()
List<File> steps = vars.findAll { it.name.endsWith('.groovy') }
mistakes += vars.findAll { !(it.name =~ /\.(groovy|txt)$/) }.collect { "${it.name}: vars must contain only steps and their help" }

// -- every step has a help that documents exactly its options ----------------------------------------------------------

List<String> documented(String help) {
    String part = help.contains('\nOptions:\n') ? help.split('\nOptions:\n')[1].split('\n\n')[0] : ''
    return part.readLines().collect { it.split(':')[0] }
}

for (File step in steps) {
    String name = step.name - '.groovy'
    File help = new File(step.parentFile, name + '.txt')
    if (!help.exists()) {
        mistakes << "${name}: the help ${help.name} is missing"
        continue
    }
    List<String> known = Options.known(name)
    List<String> expected = known + (known.contains('gate') ? Options.knownOfGate().collect { 'gate.' + it } : [])
    List<String> actual = documented(help.text)
    mistakes += (expected - actual).collect { "${name}: the help lacks ${it}" }
    mistakes += (actual - expected).collect { "${name}: the help documents ${it}, which is no option" }
    mistakes += actual.countBy { it }.findAll { it.value > 1 }.collect { "${name}: the help documents ${it.key} twice" }
    List<String> missing = ['Returns a map', '\nExample:\n' + name].findAll { !help.text.contains(it) }
    mistakes += missing.collect { "${name}: the help lacks '${it.trim()}'" }
    if (!step.text.contains('Map call(Map options = [:])')) {
        mistakes << "${name}: must take one optional map"
    }
}
List<File> helps = vars.findAll { it.name.endsWith('.txt') }
mistakes += helps.findAll { !new File(it.path.replace('.txt', '.groovy')).exists() }.collect { "${it.name}: there is no such step" }

// -- sandbox, restarts, size -------------------------------------------------------------------------------------------

for (File source in steps + classes) {
    mistakes += SourceRules.mistakes(source, classes)
}
for (File source in classes) {
    Class type = Class.forName('io.tidegate.' + (source.name - '.groovy'))
    if (!Serializable.isAssignableFrom(type)) {
        mistakes << "${source.name}: is not Serializable"
    }
    if (!type.declaredFields.any { it.name == 'serialVersionUID' }) {
        mistakes << "${source.name}: has no serialVersionUID"
    }
}

// -- keys --------------------------------------------------------------------------------------------------------------

for (String job in ['shop', 'team/repo/feature%2Ffoo', 'd\u00e9p\u00f4t and more', 'folder/' * 60]) {
    String key = Keys.of(job, '12', 'Deploy to production')
    mistakes += key ==~ /[\x21-\x7e]{1,1000}/ ? [] : ["Keys.of returns '${key}' for the job ${job}"]
    mistakes += key.endsWith('#12/Deploy+to+production') ? [] : ["Keys.of loses the build of the job ${job}"]
}
mistakes += Keys.of('a' * 300, '1', 's') == Keys.of('b' + 'a' * 299, '1', 's') ? ['Keys.of is the same for two jobs'] : []

// -- the question of a gate ------------------------------------------------------------------------------------------------

Map rolloutOf(String service, String release, Map verdict, String kind) {
    Map gate = [analyzed: true]
    return [
        id: 'r1', service: service, old: 'v1-1', new: release, verdict: verdict, cursor: 0,
        approval: [kind: kind], steps: [[route: ['v1-1': 1, (release): 1], gate: gate], [route: [(release): 2], gate: gate]],
    ]
}

Map verdictOf(String outcome, String reason, String message) {
    return [outcome: outcome, message: outcome + ': ' + message, findings: [[check: 'errors', outcome: outcome, reason: reason, message: message]]]
}

String longMessage = 'errors: error rate 0 % (0 of 60) on v5-2 vs 0 % (0 of 104) on v4-1; ' + 'and so on; ' * 30 + 'minimum detectable rate 14 %; more'
for (String name in ['shop', 'a-service-with-a-very-long-name-' * 4]) {
    for (String kind in ['approval', 'decision']) {
        for (Map verdict in [null, verdictOf('PASS', 'ok', longMessage), verdictOf('INCONCLUSIVE', 'few-data', 'x' * 300)]) {
            for (Map report in [[:], [lost: 0, requests: 0], [lost: 3, requests: 164, peers: [[service: 'prod/web', new: 'v2-1']]]]) {
                String question = Evidence.question(rolloutOf('prod/' + name, 'v5-2', verdict, kind), report, '')
                String problem = question.length() > Evidence.MAX_QUESTION ? 'is too long' : question.startsWith('Promote ') ? '' : 'asks nothing'
                mistakes += problem ? ["the question '${question}' ${problem}"] : []
                boolean hidden = verdict != null && name == 'shop' && !question.contains(verdict.outcome)
                mistakes += hidden ? ["the question '${question}' does not show ${verdict.outcome}"] : []
            }
        }
    }
}
String whole = Evidence.question(rolloutOf('prod/shop', 'v5-2', verdictOf('PASS', 'ok', longMessage), 'approval'), [lost: 0, requests: 164], '')
mistakes += whole.contains('0 of 164 requests lost, PASS: ') ? [] : ["the question '${whole}' lacks losses or verdict"]

if (mistakes) {
    mistakes.each { System.err.println(it) }
    System.exit(1)
}
println "${steps.size()} steps and ${classes.size()} classes keep the conventions"
